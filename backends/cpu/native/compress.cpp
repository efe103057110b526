// Compresses bf16 panels once, after a checkpoint was read. Decompresses panels for many rows and
// columns for the embedding.
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx2,fma")

#include <algorithm>
#include <cstring>
#include <vector>

#include "compressed_codes.h"

namespace tgi {
namespace {

constexpr int kWindow = kNumCodes - 1;     // exponents other than 0 that have a code
constexpr int64_t kMaxOutlierShare = 256;  // at most one weight in 256 may be an outlier

int exponent_of(bf16 value) { return value >> 7 & 0xff; }

// Counts how often each exponent occurs. Consecutive exponents are often equal, and an increment of
// a counter waits for the previous one. Four sets of counters, used in turn, avoid this wait.
class Histogram {
 public:
  explicit Histogram(const bf16* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) ++counts_[i % 4][exponent_of(values[i])];
  }

  int64_t count(int exponent) const {
    int64_t sum = 0;
    for (const auto& counts : counts_) sum += counts[exponent];
    return sum;
  }

 private:
  uint32_t counts_[4][256] = {};
};

struct Window {
  int first;
  int64_t num_outliers;
};

// The window of fifteen consecutive exponents that contains the most weights of a panel.
Window best_window(const Histogram& histogram) {
  int64_t inside = 0, total = 0;
  for (int exponent = 1; exponent < 256; ++exponent) total += histogram.count(exponent);
  for (int exponent = 1; exponent <= kWindow; ++exponent) inside += histogram.count(exponent);
  Window best{1, total - inside};
  for (int first = 2; first + kWindow <= 256; ++first) {
    inside += histogram.count(first + kWindow - 1) - histogram.count(first - 1);
    if (total - inside < best.num_outliers) best = {first, total - inside};
  }
  return best;
}

// Compresses one panel. Its input pairs must be padded to whole blocks.
class PanelEncoder {
 public:
  PanelEncoder(int first_exponent, std::vector<Outlier>& outliers)
      : before_first_(static_cast<char>(first_exponent - 1)), outliers_(outliers) {}

  void encode(const bf16* pairs, int64_t num_blocks, uint8_t* target) {
    std::memset(target, 0, kLineBytes);
    for (int code = 1; code < kNumCodes; ++code)
      target[code] = static_cast<uint8_t>(before_first_ + code);
    for (int64_t block = 0; block < num_blocks; ++block, pairs += 4 * kPanelColumns) {
      uint8_t* at = target + kLineBytes + block * kBlockBytes;
      const int64_t input = block * kBlockInputs;
      const __m512i codes = encode_pair(pairs, input, at),
                    next_codes = encode_pair(pairs + 2 * kPanelColumns, input + 2, at + kLineBytes);
      _mm512_storeu_si512(at + 2 * kLineBytes,
                          _mm512_or_si512(codes, _mm512_slli_epi16(next_codes, 4)));
    }
  }

 private:
  // Writes the signs and mantissas of two inputs. Returns their codes.
  __m512i encode_pair(const bf16* pair, int64_t input, uint8_t* target) {
    const __m512i left = _mm512_loadu_si512(pair), right = _mm512_loadu_si512(pair + 32),
                  byte = _mm512_set1_epi16(0xff);
    const __m512i low =
        _mm512_packus_epi16(_mm512_and_si512(left, byte), _mm512_and_si512(right, byte));
    const __m512i high =
        _mm512_packus_epi16(_mm512_srli_epi16(left, 8), _mm512_srli_epi16(right, 8));
    const __m512i mantissa_mask = _mm512_set1_epi8(0x7f);
    const __m512i exponent =
        _mm512_or_si512(_mm512_slli_epi16(_mm512_and_si512(high, mantissa_mask), 1),
                        _mm512_srli_epi16(_mm512_andnot_si512(mantissa_mask, low), 7));
    const __m512i code = _mm512_sub_epi8(exponent, _mm512_set1_epi8(before_first_));
    const __mmask64 in_window = _mm512_cmple_epu8_mask(_mm512_sub_epi8(code, _mm512_set1_epi8(1)),
                                                       _mm512_set1_epi8(kWindow - 1));
    const __mmask64 is_zero = _mm512_testn_epi8_mask(exponent, exponent);
    const __m512i sign_mantissa =
        _mm512_ternarylogic_epi32(mantissa_mask, low, high, 0xca);  // a ? b : c
    _mm512_storeu_si512(target, _mm512_maskz_mov_epi8(in_window | is_zero, sign_mantissa));
    for (__mmask64 outside = ~(in_window | is_zero); outside != 0; outside &= outside - 1) {
      const int position = position_of(__builtin_ctzll(outside));
      outliers_.push_back({static_cast<int32_t>(input + position % 2),
                           static_cast<uint16_t>(position / 2), pair[position]});
    }
    return _mm512_maskz_mov_epi8(in_window, code);
  }

  const char before_first_;
  std::vector<Outlier>& outliers_;
};

}  // namespace

void decompress_panel(const CompressedWeight& weight, int64_t num_inputs, int64_t panel,
                      bf16* target) {
  const uint8_t* source = weight.panels + panel * compressed_panel_bytes(num_inputs);
  const Decoder decoder(source);
  const uint8_t* block = source + kLineBytes;
  for (int64_t input = 0; input < num_inputs; input += kBlockInputs, block += kBlockBytes) {
    bf16* pairs = target + input * kPanelColumns;
    prefetch_block(block);
    const Pair first = decoder.decode<0>(block), second = decoder.decode<1>(block);
    _mm512_storeu_si512(pairs, first.low);
    _mm512_storeu_si512(pairs + 32, first.high);
    _mm512_storeu_si512(pairs + 64, second.low);
    _mm512_storeu_si512(pairs + 96, second.high);
  }
}

void decompress_column(const CompressedWeight& weight, int64_t num_inputs, int64_t column,
                       float factor, float* target) {
  const int64_t panel = column / kPanelColumns;
  const auto place_in_panel = static_cast<int>(column % kPanelColumns);
  const uint8_t* source = weight.panels + panel * compressed_panel_bytes(num_inputs);
  // 8 bytes contain 4 columns. The next 8 bytes contain the columns that are higher by 16.
  const int place = place_in_panel % 16 / 4 * 16 + place_in_panel / 16 * 8 + place_in_panel % 4 * 2;
  for (int64_t input = 0; input < num_inputs; ++input) {
    const uint8_t* block = source + kLineBytes + input / kBlockInputs * kBlockBytes;
    const auto pair = static_cast<int>(input % kBlockInputs / 2),
               at = place + static_cast<int>(input % 2);
    const uint8_t sign_mantissa = block[pair * kLineBytes + at],
                  exponent = source[block[2 * kLineBytes + at] >> 4 * pair & 0x0f];
    target[input] = to_float(static_cast<bf16>((sign_mantissa & 0x80) << 8 | exponent << 7 |
                                               (sign_mantissa & 0x7f))) *
                    factor;
  }
  for (int32_t i = weight.outlier_starts[panel]; i < weight.outlier_starts[panel + 1]; ++i)
    if (weight.outliers[i].column == place_in_panel)
      target[weight.outliers[i].input] = to_float(weight.outliers[i].value) * factor;
}

}  // namespace tgi

extern "C" {

int64_t tgi_compressed_panel_bytes(int64_t num_inputs) {
  return tgi::compressed_panel_bytes(num_inputs);
}

// Returns the number of outliers in `num_panels` bf16 panels, or -1 if there are too many for
// compression to be worth it. Writes the first exponent of each panel's window.
int64_t tgi_count_outliers(const uint16_t* panels, int64_t num_panels, int64_t num_inputs,
                           uint8_t* first_exponents) {
  const int64_t panel_size = (num_inputs + 1) / 2 * 2 * tgi::kPanelColumns;
  int64_t total = 0;
  for (int64_t panel = 0; panel < num_panels; ++panel) {
    const tgi::Window window =
        tgi::best_window(tgi::Histogram(panels + panel * panel_size, panel_size));
    first_exponents[panel] = static_cast<uint8_t>(window.first);
    total += window.num_outliers;
  }
  return total * tgi::kMaxOutlierShare > num_panels * panel_size ? -1 : total;
}

// Compresses the panels with the exponents found by `tgi_count_outliers`. `target` may be equal to
// `panels`.
void tgi_compress(const uint16_t* panels, int64_t num_panels, int64_t num_inputs,
                  const uint8_t* first_exponents, uint8_t* target, tgi::Outlier* outliers,
                  int32_t* outlier_starts) {
  const int64_t panel_size = (num_inputs + 1) / 2 * 2 * tgi::kPanelColumns,
                num_blocks = (num_inputs + tgi::kBlockInputs - 1) / tgi::kBlockInputs;
  // The padding of the last block stays zero.
  std::vector<uint16_t> source(
      static_cast<size_t>(num_blocks * tgi::kBlockInputs * tgi::kPanelColumns));
  std::vector<tgi::Outlier> found;
  outlier_starts[0] = 0;
  for (int64_t panel = 0; panel < num_panels;
       ++panel, target += tgi::compressed_panel_bytes(num_inputs)) {
    std::copy(panels + panel * panel_size, panels + (panel + 1) * panel_size, source.begin());
    tgi::PanelEncoder(first_exponents[panel], found).encode(source.data(), num_blocks, target);
    outlier_starts[panel + 1] = static_cast<int32_t>(found.size());
  }
  std::copy(found.begin(), found.end(), outliers);
}
}
