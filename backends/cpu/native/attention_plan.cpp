#include "attention_plan.h"

#include <algorithm>

namespace tgi {
namespace {

constexpr int32_t kSegmentBlocks = 8;
constexpr int64_t kFewQueries = 8;  // a row with more queries is a prompt and has enough tiles
constexpr int32_t kUndecided = 0, kNone = -1;

int64_t num_queries(const Batch& batch, int64_t row) {
  return batch.query_starts[row + 1] - batch.query_starts[row];
}

int32_t num_blocks(const Batch& batch, int64_t row) {
  return static_cast<int32_t>((batch.context_lens[row] + kBlockTokens - 1) / kBlockTokens);
}

// Returns the number of segments at the beginning that two rows have in common. The last block of
// each row is not included.
int32_t num_common_segments(const Batch& batch, int64_t row, int64_t other) {
  const int32_t* left = batch.block_tables + row * batch.max_blocks;
  const int32_t* right = batch.block_tables + other * batch.max_blocks;
  const int32_t limit = std::min(num_blocks(batch, row), num_blocks(batch, other)) - 1;
  return static_cast<int32_t>(std::mismatch(left, left + limit, right).first - left) /
         kSegmentBlocks;
}

// Finds consecutive rows of one query each that begin with the same segments. Returns the number of
// these rows, beginning with `row`, and the number of common segments.
struct Shared {
  Shared(const Batch& batch, int64_t row, int64_t max_rows) {
    for (int64_t other = row + 1;
         num_rows < max_rows && other < batch.num_rows && num_queries(batch, other) == 1; ++other) {
      const int32_t common = num_common_segments(batch, row, other);
      // A row with few common segments would reduce the segments that the earlier rows share.
      if (common == 0 || 2 * common < segments) break;
      segments = num_rows == 1 ? common : std::min(segments, common);
      ++num_rows;
    }
  }

  int64_t num_rows = 1;
  int32_t segments = 0;
};

}  // namespace

AttentionPlan::AttentionPlan(const AttentionLayer& layer, const Batch& batch, int64_t tile_queries)
    : num_heads_(layer.num_heads),
      num_kv_heads_(layer.num_kv_heads),
      head_dim_(layer.head_dim),
      window_(layer.window),
      partial_floats_(round_up(layer.head_dim, kPanelColumns) + 2) {
  for (int64_t row = 0, end; row < batch.num_rows; row = end) {
    end = row + 1;
    int32_t shared_blocks = 0;
    if (num_queries(batch, row) == 1 && window_ == 0) {
      const Shared shared(batch, row, tile_queries);
      end = row + shared.num_rows;
      shared_blocks = shared.segments * kSegmentBlocks;
    }
    if (shared_blocks > 0)
      add_segments({static_cast<int32_t>(row), batch.query_starts[row],
                    static_cast<int32_t>(end - row), 0, shared_blocks, kUndecided});
    for (int64_t own = row; own < end; ++own) add_row(batch, own, tile_queries, shared_blocks);
  }
  connect(batch);
  // Large pieces run first, so that the threads finish at about the same time. The sort is stable:
  // pieces of one row, which read the same keys, stay together.
  std::stable_sort(
      pieces_.begin(), pieces_.end(),
      [](const AttentionPiece& a, const AttentionPiece& b) { return a.num_tokens > b.num_tokens; });
}

// Adds the pieces of a row for its keys from `first_block` on. The last tiles of a prompt attend to
// the longest context and are added first.
void AttentionPlan::add_row(const Batch& batch, int64_t row, int64_t tile_queries,
                            int32_t first_block) {
  const int64_t count = num_queries(batch, row), start = batch.context_lens[row] - count;
  for (int64_t first = (count - 1) / tile_queries * tile_queries; first >= 0;
       first -= tile_queries) {
    const int64_t size = std::min(tile_queries, count - first);
    const int64_t oldest = window_ > 0 ? std::max<int64_t>(0, start + first - window_ + 1) : 0;
    const AttentionPiece piece{static_cast<int32_t>(row),
                               static_cast<int32_t>(batch.query_starts[row] + first),
                               static_cast<int32_t>(size),
                               std::max(first_block, static_cast<int32_t>(oldest / kBlockTokens)),
                               static_cast<int32_t>((start + first + size - 1) / kBlockTokens + 1),
                               kUndecided};
    if (count <= kFewQueries)
      add_segments(piece);
    else
      pieces_.push_back(piece);
  }
}

// Adds `piece`, divided at the beginnings of segments.
void AttentionPlan::add_segments(AttentionPiece piece) {
  for (const int32_t end = piece.end_block; piece.first_block < end;
       piece.first_block = piece.end_block) {
    piece.end_block = std::min(end, (piece.first_block / kSegmentBlocks + 1) * kSegmentBlocks);
    pieces_.push_back(piece);
  }
}

// Assigns records for partial results to the pieces of tokens that have several pieces.
void AttentionPlan::connect(const Batch& batch) {
  num_parts_.assign(static_cast<size_t>(batch.num_tokens), 0);
  for (const AttentionPiece& piece : pieces_)
    for (int32_t i = 0; i < piece.num_tokens; ++i)
      ++num_parts_[static_cast<size_t>(piece.first_token + i)];
  first_record_.assign(static_cast<size_t>(batch.num_tokens), kNone);
  for (AttentionPiece& piece : pieces_) {
    // Either all tokens of a piece are in several pieces, or none is: a tile is divided as a whole,
    // and every row that shares segments also has its own last blocks.
    if (num_parts_[static_cast<size_t>(piece.first_token)] == 1) {
      piece.first_record = kNone;
      continue;
    }
    piece.first_record = static_cast<int32_t>(next_record_.size());
    for (int32_t i = 0; i < piece.num_tokens; ++i) {
      int32_t& first = first_record_[static_cast<size_t>(piece.first_token + i)];
      next_record_.push_back(first);
      first = piece.first_record + i;
    }
  }
  const size_t num_records = next_record_.size();
  if (num_records == 0) return;
  partials_ = std::make_unique_for_overwrite<float[]>(
      num_records * static_cast<size_t>(num_heads_ * partial_floats_));
  num_done_ =
      std::make_unique<std::atomic<int32_t>[]>(num_records * static_cast<size_t>(num_kv_heads_));
}

bool AttentionPlan::fits(const AttentionLayer& layer) const {
  return layer.num_heads == num_heads_ && layer.num_kv_heads == num_kv_heads_ &&
         layer.head_dim == head_dim_ && layer.window == window_;
}

bool AttentionPlan::is_last(int64_t token, int64_t kv_head) const {
  std::atomic<int32_t>& done =
      num_done_[static_cast<size_t>(first_record(token) * num_kv_heads_ + kv_head)];
  if (done.fetch_add(1, std::memory_order_acq_rel) + 1 < num_parts_[static_cast<size_t>(token)])
    return false;
  done.store(0, std::memory_order_relaxed);
  return true;
}

}  // namespace tgi
