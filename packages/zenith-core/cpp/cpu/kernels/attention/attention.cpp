// Scaled dot-product attention, ai.onnx:Attention. Key blocks with running maximum and sum ("online
// softmax"), one block when all keys fit; no score outside a causal or sliding window is computed.
#include "cpu/isa/vecmath.h"
#include "cpu/kernels/attention/products.h"
#include "cpu/kernels/attention/scores.h"
#include "cpu/kernels/softmax/exp_down.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

constexpr int64_t kWholeKeys = 1024;  // up to so many keys are one block
constexpr int64_t kBlockKeys = 512;   // else a block is this long
constexpr int64_t kBlockRows = 256;  // query rows that share a packed block, when there are several
constexpr int64_t kDirectRows = 4;   // up to so many query rows packing does not pay

// How the work is cut, from shapes and the thread count alone. A task is some heads of one group
// times some query rows; sizes of scratch are in floats.
struct Plan : Sizes {
  bool direct;
  int64_t block;  // keys
  int64_t task_heads, task_rows;
  int64_t head_cuts, row_cuts;
  int64_t score_stride, k_size, v_stride, e_padded, state_rows, state_size, worker_size;
};

Plan plan_of(const Call& call) {
  Plan p{};
  static_cast<Sizes&>(p) = sizes_of(call);
  p.direct = p.rows <= kDirectRows;
  p.block = p.keys <= kWholeKeys ? at_least(p.keys, 1) : kBlockKeys;
  const bool several = p.keys > p.block;
  p.task_rows = at_least(several ? at_most(p.rows, kBlockRows) : p.rows, 1);
  p.task_heads = at_least(several ? at_most(p.heads, kBlockRows / p.task_rows) : p.heads, 1);
  // Smaller tasks until every thread has some, but not so small that packing dominates.
  const int64_t threads = call.parallel.threads;
  for (;;) {
    p.head_cuts = (p.heads + p.task_heads - 1) / p.task_heads;
    p.row_cuts = (p.rows + p.task_rows - 1) / p.task_rows;
    const int64_t tasks = call.in[0].shape[0] * p.groups * p.head_cuts * p.row_cuts;
    if (threads == 1 || tasks >= 4 * threads || tasks % threads == 0) break;
    if (p.task_heads > 1) {
      p.task_heads = (p.task_heads + 1) / 2;
    } else if (p.task_rows >= 8 * kTileRows) {
      p.task_rows = round_up((p.task_rows + 1) / 2, kTileRows);
    } else {
      break;
    }
  }
  p.score_stride = round_up(p.block, kPanel);
  p.k_size = p.direct ? 0 : p.score_stride * p.d;
  p.v_stride = p.score_stride * kPanel;
  p.e_padded = round_up(p.e, kPanel);
  p.state_rows = several ? p.task_heads * p.task_rows : 0;
  p.state_size = round_up(p.state_rows * (p.e_padded + 2), 16);
  p.worker_size = kTileRows * p.score_stride + p.k_size +
                  (p.direct ? 0 : p.e_padded / kPanel * p.v_stride) + p.state_size;
  p.worker_size = round_up(p.worker_size, 16);
  return p;
}

// The scratch of one worker.
struct Work {
  float *scores, *k, *v;
  float *sums, *max, *total;  // per query row of the task, between key blocks
};

struct Task {
  int64_t batch, group, head0, head1, row0, row1;
  int64_t keys;  // those behind are hidden from every row, or are not there in this batch
  Params how;    // with this batch's offset
};

// One tile of m query rows, first one `row` of head h, against the keys [t0, t0 + n).
void run_tile(const Call& call, const Plan& p, const Task& task, const Work& work, int64_t h,
              int64_t row, int m, int64_t t0, int64_t n) {
  const Params& w = task.how;
  const TensorRef &q = call.in[0], &y = call.out[0];
  const TensorRef* mask = mask_of(call);
  const int64_t keys = task.keys;
  float* to = row_of<float>(y, task.batch, h, row);

  const Span seen{visible(w, row, keys).from, visible(w, row + m - 1, keys).to};
  if (seen.from >= seen.to) {  // no row of the tile sees a key
    if (t0 != 0) return;
    for (int r = 0; r < m; ++r) {
      for (int64_t c = 0; c < p.e; ++c) to[r * y.strides[2] + c] = 0.0f;
    }
    return;
  }
  const int64_t from = at_least(seen.from, t0), end = at_most(seen.to, t0 + n);
  if (from >= end) return;
  const bool first = seen.from >= t0, last = seen.to <= t0 + n;

  // Scores of the columns [c0, c1) of the block, in whole panels; those outside a row's window are
  // -inf.
  const int64_t c0 = (from - t0) / kPanel * kPanel, c1 = end - t0;
  const int64_t width = round_up(c1 - c0, kPanel);
  const Rows qs{row_of<const float>(q, task.batch, h, row), q.strides[2]};
  if (p.direct) {
    const Rows ks{row_of<const float>(call.in[1], task.batch, task.group, t0 + c0),
                  call.in[1].strides[2]};
    for (int r = 0; r < m; ++r) {
      row_scores(qs.data + r * qs.stride, ks, c1 - c0, p.d, w.scale,
                 work.scores + r * p.score_stride);
    }
  } else {
    tile_scores(m, qs, p.d, work.k + c0 * p.d, width / kPanel, w.scale, work.scores,
                p.score_stride);
  }

  float keep[kTileRows], scale[kTileRows];
  const int64_t state = (h - task.head0) * p.task_rows + row - task.row0;
  for (int r = 0; r < m; ++r) {
    float* s = work.scores + r * p.score_stride;
    const Span own = visible(w, row + r, keys);
    const int64_t a = at_most(at_least(own.from - t0 - c0, 0), width);
    const int64_t b = at_least(at_most(own.to - t0 - c0, c1 - c0), a);
    if (w.softcap != 0.0f) cap_scores(s, round_up(b, kLanes), w.softcap);
    if (mask != nullptr) {
      mask_scores(*mask, task.batch, h, row + r, t0 + c0 + a, t0 + c0 + b, s + a);
    }
    for (int64_t j = 0; j < a; ++j) s[j] = -__builtin_inff();
    for (int64_t j = b; j < width; ++j) s[j] = -__builtin_inff();
    const float before = first ? -__builtin_inff() : work.max[state + r];
    const float block = row_max(s, width);
    const float top = before > block ? before : block;
    const float base = top == -__builtin_inff() ? 0.0f : top;
    float total = row_exp(s, width, base);
    keep[r] = before == -__builtin_inff() ? 0.0f : exp_down(splat(before - base))[0];
    if (!first) total += work.total[state + r] * keep[r];
    scale[r] = total == 0.0f ? 0.0f : 1.0f / total;
    if (!last) {
      work.max[state + r] = top;
      work.total[state + r] = total;
    }
  }

  float* sums = first && last ? nullptr : work.sums + state * p.e_padded;
  const Accumulate out{
      first ? nullptr : sums, last ? to : sums, p.e_padded, last ? y.strides[2] : p.e_padded, keep,
      last ? scale : nullptr};
  const Rows ps{work.scores, p.score_stride};
  if (p.direct) {
    const Rows vs{row_of<const float>(call.in[2], task.batch, task.group, t0 + c0),
                  call.in[2].strides[2]};
    for (int r = 0; r < m; ++r) {
      Accumulate one = out;
      if (!first) one.old += r * out.old_stride;
      one.to += r * out.to_stride;
      row_values(ps.data + r * ps.stride, c1 - c0, vs, p.e, one, r);
    }
  } else {
    tile_values(m, ps, c1 - c0, work.v + c0 * kPanel, p.v_stride, p.e, out);
  }
}

void run_task(const Call& call, const Plan& p, const Task& task, const Work& work) {
  const TensorRef &k = call.in[1], &v = call.in[2];
  const int64_t rows = task.row1 - task.row0;
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  // Key blocks beyond the last visible key are never touched; rows without any key need one round.
  const int64_t seen = at_least(visible(task.how, task.row1 - 1, task.keys).to, 1);
  for (int64_t t0 = 0; t0 < seen; t0 += p.block) {
    const int64_t n = at_most(p.block, at_least(at_most(seen, task.keys) - t0, 0));
    if (!p.direct) {
      pack_keys({row_of<const float>(k, task.batch, task.group, t0), k.strides[2]}, n, p.d, work.k);
      pack_values({row_of<const float>(v, task.batch, task.group, t0), v.strides[2]}, n, p.e,
                  work.v, p.v_stride);
    }
    for (int64_t h = task.head0; h < task.head1; ++h) {
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t row = task.row0 + rows * i / tiles;
        const int m = static_cast<int>(task.row0 + rows * (i + 1) / tiles - row);
        run_tile(call, p, task, work, h, row, m, t0, n);
      }
    }
  }
}

}  // namespace

int64_t attention_scratch(const Call& call) {
  return plan_of(call).worker_size * 4 * call.parallel.threads;
}

const char* run_attention(const Call& call) {
  const Plan p = plan_of(call);
  if (element_count(call.out[0]) == 0) return nullptr;
  const int64_t cuts = p.head_cuts * p.row_cuts;
  const TensorRef* mask = mask_of(call);
  parallel_for(call, call.in[0].shape[0] * p.groups * cuts, [&](int64_t index, int worker) {
    Work work{};
    work.scores = reinterpret_cast<float*>(call.scratch) + worker * p.worker_size;
    work.k = work.scores + kTileRows * p.score_stride;
    work.v = work.k + p.k_size;
    work.sums = work.scores + p.worker_size - p.state_size;
    work.max = work.sums + p.state_rows * p.e_padded;
    work.total = work.max + p.state_rows;
    const int64_t part = index % cuts, group = index / cuts % p.groups;
    const int64_t head = part / p.row_cuts * p.task_heads, row = part % p.row_cuts * p.task_rows;
    const int64_t batch = index / cuts / p.groups;
    const Present there = present(call, p, batch);
    Task task{batch,
              group,
              group * p.heads + head,
              group * p.heads + at_most(head + p.task_heads, p.heads),
              row,
              at_most(row + p.task_rows, p.rows),
              there.keys,
              there.how};
    if (mask != nullptr) {
      task.keys = shown_keys(*mask, {task.batch, task.head0, task.head1, task.row0, task.row1},
                             at_most(task.keys, mask->shape[3]));
    }
    run_task(call, p, task, work);
  });
  return nullptr;
}

namespace {

constexpr const char* kTileName = kLanes == 16 ? "14x32" : kLanes == 8 ? "6x16" : "6x8";
const Kernel kKernels[] = {
    {"attention_f32", kTileName, kParamFields, kParamCount, sizeof(Params), attention_scratch,
     run_attention},
    {"attention_bf16", kTileName, kParamFields, kParamCount, sizeof(Params), half_attention_scratch,
     run_half_attention},
};

}  // namespace

Table attention_table();
Table attention_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
