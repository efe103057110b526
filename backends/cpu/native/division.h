// The division of a linear operation into shares: blocks of rows by groups of panels.
#pragma once

#include <algorithm>

#include "program.h"

namespace tgi {

struct Division {
  static constexpr int64_t kBlockBytes = 512 << 10;  // inputs that stay in the second-level cache
  static constexpr int64_t kMinBlockRows = 240;  // enough rows to make unpacking a panel worth it
  static constexpr int64_t kSharesPerThread = 12;
  // With several blocks of rows, shares are large, and the other threads wait for the last one.
  // More and smaller shares reduce this wait.
  static constexpr int64_t kBlockSharesPerThread = 32;

  Division(const Op& op, const Batch& batch, int num_threads) {
    num_panels = round_up(op.num_columns, kPanelColumns) / kPanelColumns;
    const int64_t max_rows = std::max(kMinBlockRows, kBlockBytes / (2 * op.num_inputs));
    row_blocks = (batch.num_tokens + max_rows - 1) / max_rows;
    block_rows = (batch.num_tokens + row_blocks - 1) / row_blocks;
    const int64_t per_thread = row_blocks > 1 ? kBlockSharesPerThread : kSharesPerThread;
    const int64_t wanted = std::max<int64_t>(1, per_thread * num_threads / row_blocks);
    // An even number of panels, so that wide tiles can multiply two panels at once.
    share_panels = std::max<int64_t>(2, round_up((num_panels + wanted - 1) / wanted, 2));
    column_shares = (num_panels + share_panels - 1) / share_panels;
  }

  int64_t num_shares() const { return row_blocks * column_shares; }

  int64_t num_panels, row_blocks, block_rows, share_panels, column_shares;
};

// The rows and panels of one share.
struct Share {
  Share(const Division& division, const Batch& batch, int64_t index)
      : first_row(index / division.column_shares * division.block_rows),
        last_row(std::min(first_row + division.block_rows, batch.num_tokens)),
        panel(index % division.column_shares * division.share_panels),
        panel_end(std::min(panel + division.share_panels, division.num_panels)) {}

  int64_t first_row, last_row, panel, panel_end;
};

// Multiplies the rows of `share` by one panel after the other. unpack(panel, target) unpacks each
// panel into `scratch` once for all rows.
template <typename Unpack>
inline void multiply_unpacked(const Op& op, const Share& share, float* scratch, Unpack&& unpack) {
  auto* unpacked = reinterpret_cast<bf16*>(scratch);
  for (int64_t panel = share.panel; panel < share.panel_end; ++panel) {
    unpack(panel, unpacked);
    multiply_rows(op, unpacked, share.first_row, share.last_row, panel, panel + 1);
  }
}

constexpr int kMaxTile = 12;  // rows of a register tile

// Calls function(row, height) for rows [first, last) in tiles of nearly equal height.
template <typename Function>
inline void for_tiles(int64_t first, int64_t last, Function&& function) {
  const int64_t num_tiles = (last - first + kMaxTile - 1) / kMaxTile;
  for (int64_t row = first, left = num_tiles; left > 0; --left) {
    const int64_t height = (last - row + left - 1) / left;
    function(row, height);
    row += height;
  }
}

}  // namespace tgi
