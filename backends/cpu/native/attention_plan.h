// The division of a step's attention into pieces, each with some queries and some blocks of keys.
//
// The queries of a prompt are divided into tiles. A row with few queries is divided into segments
// of its keys, so that there is work for all threads. Rows that begin with the same blocks read
// these segments together. If the result of a query consists of several pieces, the thread that
// completes the last piece merges them. The beginnings of segments depend only on the row.
// Therefore other rows in the batch and the number of threads do not change a result.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "program.h"

namespace tgi {

struct AttentionPiece {
  int32_t row;                      // the row whose block table is read
  int32_t first_token, num_tokens;  // queries, as indices of tokens in the batch
  int32_t first_block, end_block;   // keys
  int32_t first_record;  // partial result of the first token; -1 if there is no other piece
};

class AttentionPlan {
 public:
  // Divides `batch` for layers with the shape of `layer`. A tile may have `tile_queries` queries.
  AttentionPlan(const AttentionLayer& layer, const Batch& batch, int64_t tile_queries);

  bool fits(const AttentionLayer& layer) const;
  int64_t num_shares() const { return static_cast<int64_t>(pieces_.size()) * num_kv_heads_; }
  const AttentionPiece& piece(int64_t share) const {
    return pieces_[static_cast<size_t>(share / num_kv_heads_)];
  }
  int64_t kv_head(int64_t share) const { return share % num_kv_heads_; }

  // A record contains the partial result of a token: for each head the weighted values [head_dim
  // rounded up to 32], the maximum and the total.
  float* partial(int64_t record, int64_t head) const {
    return partials_.get() + (record * num_heads_ + head) * partial_floats_;
  }
  // Counts a completed piece of this token and kv head. Returns true if it was the last one, and
  // then resets the count for the next layer.
  bool is_last(int64_t token, int64_t kv_head) const;
  int32_t first_record(int64_t token) const { return first_record_[static_cast<size_t>(token)]; }
  // The next record of the same token, or -1.
  int32_t next_record(int32_t record) const { return next_record_[static_cast<size_t>(record)]; }

 private:
  void add_row(const Batch& batch, int64_t row, int64_t tile_queries, int32_t first_block);
  void add_segments(AttentionPiece piece);
  void connect(const Batch& batch);

  int64_t num_heads_, num_kv_heads_, head_dim_, window_, partial_floats_;
  std::vector<AttentionPiece> pieces_;
  std::vector<int32_t> first_record_, next_record_, num_parts_;
  std::unique_ptr<float[]> partials_;
  // [records][kv heads]. The count of a token is stored at its first record.
  std::unique_ptr<std::atomic<int32_t>[]> num_done_;
};

}  // namespace tgi
