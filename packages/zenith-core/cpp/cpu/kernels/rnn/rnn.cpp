// Recurrent layers: RNN, GRU and LSTM over all time steps of a sequence. The part of the gates that
// does not depend on the state, x * W^T + biases, comes ready for all steps from one product of the
// gemm family; here is the recurrence, with the cells' arithmetic fused behind h * R^T.
#include "cpu/kernels/rnn/causal_conv.h"
#include "cpu/kernels/rnn/cells.h"
#include "cpu/kernels/rnn/linear_attention.h"

namespace zenith::ZENITH_ISA {
namespace {

struct PackParams {
  int64_t gates;
  int64_t last;  // gates packed apart, at the end: 1 for a GRU that resets before the product
};
const Field kPackFields[] = {ZENITH_FIELD(PackParams, gates, kInt, 1),
                             ZENITH_FIELD(PackParams, last, kInt, 1)};

// fn(R's element or -1, packed element) over R [directions, gates * H, H].
template <typename F>
void each_weight(const TensorRef& r, const PackParams& p, const F& fn) {
  const int64_t hidden = r.shape[2];
  int64_t at = 0;
  for (int64_t d = 0; d < r.shape[0]; ++d) {
    for (int part = 0; part < 2; ++part) {
      const int64_t first = part == 0 ? 0 : p.gates - p.last;
      const int64_t gates = part == 0 ? p.gates - p.last : p.last;
      each_packed(
          {nullptr, r.strides[1], r.strides[2], hidden, first, gates},
          [&](int64_t from, int64_t to) { fn(from < 0 ? -1 : from + d * r.strides[0], at + to); });
      at += packed_floats(hidden, gates);
    }
  }
}

int64_t packed_bytes(const TensorRef& src, const void* params) {
  const PackParams& p = *static_cast<const PackParams*>(params);
  return src.shape[0] * packed_floats(src.shape[2], p.gates) * 4;
}
void pack(const TensorRef& src, void* dst, const void* params) {
  const float* from = static_cast<const float*>(src.data);
  float* to = static_cast<float*>(dst);
  each_weight(src, *static_cast<const PackParams*>(params),
              [&](int64_t i, int64_t j) { to[j] = i < 0 ? 0 : from[i]; });
}
void unpack(const void* src, const TensorRef& dst, const void* params) {
  const float* from = static_cast<const float*>(src);
  float* to = static_cast<float*>(dst.data);
  each_weight(dst, *static_cast<const PackParams*>(params), [&](int64_t i, int64_t j) {
    if (i >= 0) to[i] = from[j];
  });
}

// Inputs: 0 the sums [steps, batch, directions * gates * H]; 1 R, packed or [directions, gates * H,
// H] of any strides; 2 bias of the GRU's hidden product [directions, H]; 3 initial h and 4 initial
// c [directions, batch, H]; 5 peepholes [directions, 3 * H]; 6 lengths [batch] int32. From 2 on
// all may be missing. Outputs, each of which may be missing: y [steps, directions, batch, H], last
// h, last c [directions, batch, H]. All but R have stride 1 on the last axis, others are free.
struct Sizes {
  int64_t steps, batch, hidden, padded, directions;

  Sizes(const Call& call, int gates, const Params& p) {
    const TensorRef& x = call.in[0];
    directions = p.direction == 2 ? 2 : 1;
    steps = x.shape[0];
    batch = x.shape[1];
    hidden = x.shape[2] / (directions * gates);
    padded = ceil_div(hidden, kLanes) * kLanes;
  }
};

int64_t round_up(int64_t bytes) { return ceil_div(bytes, 64) * 64; }
constexpr int kStates = 5;  // h of both parities, c, z, reset * h

template <Cell kCell>
int64_t scratch(const Call& call) {
  const Params& p = *static_cast<const Params*>(call.params);
  const Sizes size(call, gates_of(kCell), p);
  const int64_t weights =
      p.packed != 0 ? 0 : size.directions * packed_floats(size.hidden, gates_of(kCell)) * 4;
  return round_up(size.directions * size.batch * size.padded * kStates * 4) + round_up(weights);
}

bool given(const TensorRef* t, int n, int i) { return i < n && t[i].rank >= 0; }

// rows [batch][hidden] into or out of state memory; the padding is zero.
void read_state(const Call& call, int input, int64_t d, const Sizes& size, float* state) {
  const bool zero = !given(call.in, call.n_in, input);
  for (int64_t b = 0; b < size.batch; ++b, state += size.padded) {
    std::memset(state, 0, static_cast<size_t>(size.padded) * 4);
    if (zero) continue;
    const TensorRef& t = call.in[input];
    const float* from = static_cast<const float*>(t.data) + d * t.strides[0] + b * t.strides[1];
    std::memcpy(state, from, static_cast<size_t>(size.hidden) * 4);
  }
}
void write_state(const Call& call, int output, int64_t d, const Sizes& size, const float* state) {
  if (!given(call.out, call.n_out, output)) return;
  const TensorRef& t = call.out[output];
  for (int64_t b = 0; b < size.batch; ++b, state += size.padded) {
    float* to = static_cast<float*>(t.data) + d * t.strides[0] + b * t.strides[1];
    std::memcpy(to, state, static_cast<size_t>(size.hidden) * 4);
  }
}

template <Cell kCell>
Direction direction_of(const Call& call, const Params& p, const Sizes& size, int64_t index,
                       const float* weights) {
  constexpr int kGates = gates_of(kCell), kFunctions = functions_of(kCell);
  const TensorRef& x = call.in[0];
  const auto row_of = [&](int input) -> const float* {
    if (!given(call.in, call.n_in, input)) return nullptr;
    return static_cast<const float*>(call.in[input].data) + index * call.in[input].strides[0];
  };
  Direction d{};
  d.x = static_cast<const float*>(x.data) + index * kGates * size.hidden;
  d.x_step = x.strides[0];
  d.x_row = x.strides[1];
  d.weights = weights + index * packed_floats(size.hidden, kGates);
  d.bias = row_of(2);
  d.peepholes = row_of(5);
  if (given(call.in, call.n_in, 6)) {
    d.lengths = static_cast<const int32_t*>(call.in[6].data);
    d.length_stride = call.in[6].strides[0];
  }
  d.reverse = p.direction == 1 || index == 1;
  for (int i = 0; i < kFunctions; ++i) {
    const int64_t at = index * kFunctions + i;
    d.f[i] = {p.activations.v[at], p.alpha.v[at], p.beta.v[at]};
  }
  d.clip = p.clip;
  d.input_forget = p.input_forget != 0;
  d.steps = size.steps;
  d.hidden = size.hidden;
  d.padded = size.padded;
  const int64_t state = size.batch * size.padded;
  float* at = reinterpret_cast<float*>(call.scratch) + index * kStates * state;
  d.h[0] = at;
  d.h[1] = at + state;
  d.c = at + 2 * state;
  d.z = at + 3 * state;
  d.reset = at + 4 * state;
  if (kCell == kLstm && p.quantized != 0) d.rounded = d.z;
  if (given(call.out, call.n_out, 0)) {
    const TensorRef& y = call.out[0];
    d.y = static_cast<float*>(y.data) + index * y.strides[1];
    d.y_step = y.strides[0];
    d.y_row = y.strides[2];
  }
  return d;
}

void run_panels(const Direction& d, const Phase& phase, int64_t s, int64_t first, int64_t end,
                int64_t from, int64_t to) {
  const int64_t panel = kLanes * d.hidden * phase.gates;
  for (int64_t i = from; i < to; ++i) {
    const int64_t unit = i * kLanes, left = d.hidden - unit;
    const Units u{unit, left < kLanes ? static_cast<int>(left) : kLanes};
    phase.run(d, s, first, end, u, d.weights + phase.offset + i * panel);
  }
}

// Below this many bytes of weights per worker and step, a step is too short to be shared.
constexpr int64_t kLeastBytes = 1 << 17;

template <Cell kCell>
const char* run(const Call& call) {
  constexpr int kGates = gates_of(kCell);
  const Params& p = *static_cast<const Params*>(call.params);
  const Sizes size(call, kGates, p);
  if (given(call.in, call.n_in, 6)) {
    const TensorRef& t = call.in[6];
    for (int64_t b = 0; b < size.batch; ++b) {
      const int32_t length = static_cast<const int32_t*>(t.data)[b * t.strides[0]];
      if (length < 0 || length > size.steps) return "a sequence length is outside the sequence";
    }
  }
  if (size.batch == 0 || size.hidden == 0) return nullptr;
  const Phases phases = phases_of<kCell>(p, size.hidden);
  const float* weights = static_cast<const float*>(call.in[1].data);
  if (p.packed == 0) {
    const int64_t states = round_up(size.directions * size.batch * size.padded * kStates * 4);
    weights = reinterpret_cast<const float*>(call.scratch + states);
    const PackParams pack_params{kGates, phases.n - 1};
    pack(call.in[1], call.scratch + states, &pack_params);
  }
  Direction directions[2];
  for (int64_t i = 0; i < size.directions; ++i) {
    directions[i] = direction_of<kCell>(call, p, size, i, weights);
    read_state(call, 3, i, size, directions[i].h[0]);
    if constexpr (kCell == kLstm) read_state(call, 4, i, size, directions[i].c);
    std::memset(directions[i].h[1], 0, static_cast<size_t>(size.batch * size.padded) * 4);
  }
  const int64_t panels = size.padded / kLanes;
  const int64_t threads = call.parallel.threads;
  // Rows and directions are independent: workers take blocks of them and never meet.
  const bool alone = directions[0].rounded == nullptr;  // the scale of a step is that of all rows
  const int64_t tiles = alone ? ceil_div(size.batch, tile_rows(kGates)) : 1;
  const int64_t wanted = ceil_div(threads, size.directions);
  const int64_t blocks = tiles < wanted ? tiles : wanted;
  const int64_t bytes = packed_floats(size.hidden, kGates) * 4;
  const int64_t shares = blocks * size.directions >= threads ? 1 : bytes / kLeastBytes;
  if (shares <= 1) {
    parallel_for(call, size.directions * blocks, [&](int64_t task, int) {
      const Direction& d = directions[task / blocks];
      const int64_t block = task % blocks;
      const int64_t first = size.batch * block / blocks, end = size.batch * (block + 1) / blocks;
      for (int64_t s = 0; s < size.steps; ++s) {
        if (!alone) round_state(d, s, size.batch);
        for (int i = 0; i < phases.n; ++i) {
          run_panels(d, phases.phase[i], s, first, end, 0, panels);
        }
      }
    });
  } else {
    // Too few of them: the units of each step are shared, with a barrier after each phase.
    const int64_t groups =
        ceil_div(threads, size.directions) < shares ? ceil_div(threads, size.directions) : shares;
    for (int64_t s = 0; s < size.steps; ++s) {
      for (int64_t i = 0; !alone && i < size.directions; ++i) {
        round_state(directions[i], s, size.batch);
      }
      for (int i = 0; i < phases.n; ++i) {
        parallel_for(call, size.directions * groups, [&](int64_t task, int) {
          const int64_t group = task % groups;
          run_panels(directions[task / groups], phases.phase[i], s, 0, size.batch,
                     panels * group / groups, panels * (group + 1) / groups);
        });
      }
    }
  }
  for (int64_t i = 0; i < size.directions; ++i) {
    write_state(call, 1, i, size, directions[i].h[size.steps % 2]);
    if constexpr (kCell == kLstm) write_state(call, 2, i, size, directions[i].c);
  }
  return nullptr;
}

// Sums of the input and recurrent biases B [directions, 2 * gates * H] that are not constant:
// [directions * gates * H]; the second output, [directions, H] or missing, takes the recurrent bias
// of the last gate, which is then left out of the sums.
const char* run_bias(const Call& call) {
  const TensorRef &b = call.in[0], &y = call.out[0];
  const bool apart = given(call.out, call.n_out, 1);
  const int64_t half = b.shape[1] / 2;
  const int64_t hidden = apart ? call.out[1].shape[1] : 0;
  for (int64_t d = 0; d < b.shape[0]; ++d) {
    const float* from = static_cast<const float*>(b.data) + d * b.strides[0];
    float* to = static_cast<float*>(y.data) + d * half;
    for (int64_t i = 0; i < half; ++i) {
      const float recurrent = from[(half + i) * b.strides[1]];
      const bool last = i >= half - hidden;
      to[i] = from[i * b.strides[1]] + (last ? 0 : recurrent);
      if (last) static_cast<float*>(call.out[1].data)[d * hidden + i - half + hidden] = recurrent;
    }
  }
  return nullptr;
}

constexpr int kFieldCount = sizeof(kFields) / sizeof(*kFields);
const Kernel kKernels[] = {
    {"rnn_f32", "", kFields, kFieldCount, sizeof(Params), scratch<kRnn>, run<kRnn>},
    {"gru_f32", "", kFields, kFieldCount, sizeof(Params), scratch<kGru>, run<kGru>},
    {"lstm_f32", "", kFields, kFieldCount, sizeof(Params), scratch<kLstm>, run<kLstm>},
    {"rnn_bias_f32", "", nullptr, 0, 0, nullptr, run_bias},
    {"linear_attention_f32", "", kLinearAttentionFields, 3, sizeof(LinearAttentionParams),
     linear_attention_scratch, run_linear_attention},
    {"causal_conv_f32", "", kCausalConvFields, 1, sizeof(CausalConvParams), causal_conv_scratch,
     run_causal_conv},
};
const Packer kPackers[] = {
    {"rnn_pack_f32", kPackFields, 2, sizeof(PackParams), packed_bytes, pack, unpack},
};

}  // namespace

Table rnn_table();
Table rnn_table() {
  return {kKernels, sizeof(kKernels) / sizeof(*kKernels), kPackers,
          sizeof(kPackers) / sizeof(*kPackers)};
}

}  // namespace zenith::ZENITH_ISA
