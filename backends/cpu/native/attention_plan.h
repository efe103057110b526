// How the attention of a step is divided: into pieces, each of some queries over some blocks of
// keys.
//
// The queries of a prompt go in tiles. A row of few queries is cut into segments of its keys, so
// that all threads have work, and rows that begin with the same blocks read those segments
// together. The result of a query with several pieces is put together by whoever ends its last
// piece. Where segments begin depends on nothing but the row: what else is in the batch, and how
// many threads there are, does not change a result.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "program.h"

namespace tgi {

struct AttentionPiece {
  int32_t row;                      // whose block table is read
  int32_t first_token, num_tokens;  // of the batch
  int32_t first_block, end_block;
  int32_t first_record;  // of its tokens' partial results; -1: it is the only piece of its tokens
};

class AttentionPlan {
 public:
  // Divides `batch` for layers of the shape of `layer`, of which a tile may have `tile_queries`
  // queries.
  AttentionPlan(const AttentionLayer& layer, const Batch& batch, int64_t tile_queries);

  bool fits(const AttentionLayer& layer) const;
  int64_t num_shares() const { return static_cast<int64_t>(pieces_.size()) * num_kv_heads_; }
  const AttentionPiece& piece(int64_t share) const {
    return pieces_[static_cast<size_t>(share / num_kv_heads_)];
  }
  int64_t kv_head(int64_t share) const { return share % num_kv_heads_; }

  // A record holds a token's partial result, per head the weighted values [head_dim rounded up to
  // 32], maximum and total.
  float* partial(int64_t record, int64_t head) const {
    return partials_.get() + (record * num_heads_ + head) * partial_floats_;
  }
  // Whether the piece that wrote a token's result for this kv head was the last to do so. Ready for
  // the next layer then.
  bool is_last(int64_t token, int64_t kv_head) const;
  int32_t first_record(int64_t token) const { return first_record_[static_cast<size_t>(token)]; }
  int32_t next_record(int32_t record) const {
    return next_record_[static_cast<size_t>(record)];
  }  // of the same token, or -1

 private:
  void add_row(const Batch& batch, int64_t row, int64_t tile_queries, int32_t first_block);
  void add_segments(AttentionPiece piece);
  void connect(const Batch& batch);

  int64_t num_heads_, num_kv_heads_, head_dim_, window_, partial_floats_;
  std::vector<AttentionPiece> pieces_;
  std::vector<int32_t> first_record_, next_record_, num_parts_;
  std::unique_ptr<float[]> partials_;
  std::unique_ptr<std::atomic<int32_t>[]>
      num_done_;  // [records][kv heads], at a token's first record
};

}  // namespace tgi
