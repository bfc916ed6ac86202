// One step of the recurrent cells: what happens to the gates' sums of kLanes units of one row.
#pragma once

#include <cmath>

#include "cpu/kernels/rnn/activations.h"
#include "cpu/kernels/rnn/products.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

// Of rnn_f32, gru_f32 and lstm_f32. activations are those of all directions in ONNX's order (1, 2
// or 3 per direction). clip bounds the sums that enter the gates (infinity: none), not the cell
// state before the last activation of an LSTM, as runtimes have it.
struct Params {
  int64_t direction;  // 0 forward, 1 reverse, 2 both
  int64_t packed;     // whether R is packed
  int64_t linear_before_reset;
  int64_t input_forget;
  int64_t quantized;  // LSTM: h enters its product rounded to 8 bits, each step with its own scale
  Ints<6> activations;
  Floats<6> alpha, beta;
  float clip;
};
const Field kFields[] = {ZENITH_FIELD(Params, direction, kInt, 1),
                         ZENITH_FIELD(Params, packed, kInt, 1),
                         ZENITH_FIELD(Params, linear_before_reset, kInt, 1),
                         ZENITH_FIELD(Params, input_forget, kInt, 1),
                         ZENITH_FIELD(Params, quantized, kInt, 1),
                         ZENITH_FIELD(Params, activations, kInts, 6),
                         ZENITH_FIELD(Params, alpha, kFloats, 6),
                         ZENITH_FIELD(Params, beta, kFloats, 6),
                         ZENITH_FIELD(Params, clip, kFloat, 1)};

enum Cell { kRnn, kGru, kLstm };
constexpr int gates_of(Cell cell) { return cell == kRnn ? 1 : cell == kGru ? 3 : 4; }
constexpr int functions_of(Cell cell) { return cell == kRnn ? 1 : cell == kGru ? 2 : 3; }

// One direction of a run. State rows are `padded` floats apart, one row per item of the batch.
struct Direction {
  const float* x;  // x * W^T + biases, [steps, batch, gates * hidden]
  int64_t x_step, x_row;
  const float* weights;    // packed R
  const float* bias;       // GRU, linear before reset: of the hidden gate's product; or null
  const float* peepholes;  // LSTM: [3 * hidden] in the order i, o, f; or null
  const int32_t* lengths;  // per row, or null: all steps
  int64_t length_stride;
  bool reverse;
  Activation f[3];
  float clip;
  bool input_forget;
  int64_t steps, hidden, padded;
  float* h[2];     // step s reads h[s % 2]
  float* rounded;  // LSTM: what the product reads instead, or null
  float* c;
  float* z;      // GRU, reset before the product: update gate,
  float* reset;  // and reset gate times h
  float* y;      // [steps, batch, hidden], or null
  int64_t y_step, y_row;
};

// kLanes units of a vector, or the first n of them.
[[gnu::always_inline]] inline vf take(const float* p, int n) {
  return n == kLanes ? load(p) : load_n(p, n);
}
[[gnu::always_inline]] inline void give(float* p, vf v, int n) {
  if (n == kLanes) return store(p, v);
  store_n(p, v, n);
}

// Where a row stands at step s: the time it reads, and whether its sequence still runs.
struct Moment {
  int64_t time;
  bool alive;
};
[[gnu::always_inline]] inline Moment moment(const Direction& d, int64_t s, int64_t row) {
  const int64_t length = d.lengths == nullptr ? d.steps : d.lengths[row * d.length_stride];
  if (s >= length) return {s, false};
  return {d.reverse ? length - 1 - s : s, true};
}

// The units of one panel: [unit, unit + n).
struct Units {
  int64_t unit;
  int n;
};

[[gnu::always_inline]] inline void finish_row(const Direction& d, const Moment& m, int64_t s,
                                              int64_t row, const Units& u, vf h) {
  const int64_t at = row * d.padded + u.unit;
  store(d.h[(s + 1) % 2] + at, m.alive ? h : load(d.h[s % 2] + at));
  if (d.y != nullptr)
    give(d.y + m.time * d.y_step + row * d.y_row + u.unit, m.alive ? h : vf{}, u.n);
}

[[gnu::always_inline]] inline vf sums(const Direction& d, const Moment& m, int64_t row,
                                      const Units& u, int gate) {
  return take(d.x + m.time * d.x_step + row * d.x_row + gate * d.hidden + u.unit, u.n);
}

[[gnu::always_inline]] inline vf gate(const Direction& d, int function, vf x) {
  return activate(d.f[function], vclamp(x, -d.clip, d.clip));
}

// h as DynamicQuantizeLinear and DequantizeLinear give it: uint8, one scale for all rows.
void round_state(const Direction& d, int64_t s, int64_t batch) {
  const float* h = d.h[s % 2];  // the padding is zero, which every such scale has exactly
  const int64_t n = batch * d.padded;
  float low = 0, high = 0;
  for (int64_t i = 0; i < n; ++i) {
    low = h[i] < low ? h[i] : low;
    high = h[i] > high ? h[i] : high;
  }
  const float scale = high == low ? 1.0f : (high - low) / 255.0f;
  const float zero = std::nearbyint(-low / scale);
  for (int64_t i = 0; i < n; ++i) {
    float q = std::nearbyint(h[i] / scale) + zero;
    q = q < 0.0f ? 0.0f : q > 255.0f ? 255.0f : q;
    d.rounded[i] = (q - zero) * scale;
  }
}

// The step function of each cell for rows [first, end) and panels [from, to).

void step_rnn(const Direction& d, int64_t s, int64_t first, int64_t end, const Units& u,
              const float* panel) {
  multiply_panel<1>({d.h[s % 2], d.padded, d.hidden, panel}, first, end,
                    [&](int64_t row, const vf(&acc)[1]) __attribute__((always_inline)) {
                      const Moment m = moment(d, s, row);
                      const vf x = sums(d, m, row, u, 0);
                      finish_row(d, m, s, row, u, gate(d, 0, x + acc[0]));
                    });
}

void step_lstm(const Direction& d, int64_t s, int64_t first, int64_t end, const Units& u,
               const float* panel) {
  vf peep[3] = {};
  if (d.peepholes != nullptr) {
    for (int i = 0; i < 3; ++i) peep[i] = take(d.peepholes + i * d.hidden + u.unit, u.n);
  }
  const float* h = d.rounded != nullptr ? d.rounded : d.h[s % 2];
  multiply_panel<4>({h, d.padded, d.hidden, panel}, first, end,
                    [&](int64_t row, const vf(&acc)[4]) __attribute__((always_inline)) {
                      const Moment m = moment(d, s, row);
                      float* at = d.c + row * d.padded + u.unit;
                      const vf c0 = load(at);
                      const vf i = gate(d, 0, sums(d, m, row, u, 0) + acc[0] + peep[0] * c0);
                      const vf f = d.input_forget
                                       ? 1.0f - i
                                       : gate(d, 0, sums(d, m, row, u, 2) + acc[2] + peep[2] * c0);
                      const vf g = gate(d, 1, sums(d, m, row, u, 3) + acc[3]);
                      const vf c = f * c0 + i * g;
                      const vf o = gate(d, 0, sums(d, m, row, u, 1) + acc[1] + peep[1] * c);
                      store(at, m.alive ? c : c0);
                      finish_row(d, m, s, row, u, o * activate(d.f[2], c));
                    });
}

// Linear before reset: the hidden gate's product does not need the reset gate.
void step_gru(const Direction& d, int64_t s, int64_t first, int64_t end, const Units& u,
              const float* panel) {
  const vf bias = d.bias != nullptr ? take(d.bias + u.unit, u.n) : vf{};
  multiply_panel<3>({d.h[s % 2], d.padded, d.hidden, panel}, first, end,
                    [&](int64_t row, const vf(&acc)[3]) __attribute__((always_inline)) {
                      const Moment m = moment(d, s, row);
                      const vf z = gate(d, 0, sums(d, m, row, u, 0) + acc[0]);
                      const vf r = gate(d, 0, sums(d, m, row, u, 1) + acc[1]);
                      const vf g = gate(d, 1, sums(d, m, row, u, 2) + r * (acc[2] + bias));
                      const vf h0 = load(d.h[s % 2] + row * d.padded + u.unit);
                      finish_row(d, m, s, row, u, (1.0f - z) * g + z * h0);
                    });
}

// Reset before the product: first both gates of all units, then the product with reset * h.
void step_gru_gates(const Direction& d, int64_t s, int64_t first, int64_t end, const Units& u,
                    const float* panel) {
  multiply_panel<2>({d.h[s % 2], d.padded, d.hidden, panel}, first, end,
                    [&](int64_t row, const vf(&acc)[2]) __attribute__((always_inline)) {
                      const Moment m = moment(d, s, row);
                      const int64_t at = row * d.padded + u.unit;
                      const vf r = gate(d, 0, sums(d, m, row, u, 1) + acc[1]);
                      store(d.z + at, gate(d, 0, sums(d, m, row, u, 0) + acc[0]));
                      store(d.reset + at, r * load(d.h[s % 2] + at));
                    });
}
void step_gru_hidden(const Direction& d, int64_t s, int64_t first, int64_t end, const Units& u,
                     const float* panel) {
  multiply_panel<1>({d.reset, d.padded, d.hidden, panel}, first, end,
                    [&](int64_t row, const vf(&acc)[1]) __attribute__((always_inline)) {
                      const Moment m = moment(d, s, row);
                      const int64_t at = row * d.padded + u.unit;
                      const vf g = gate(d, 1, sums(d, m, row, u, 2) + acc[0]);
                      const vf z = load(d.z + at), h0 = load(d.h[s % 2] + at);
                      finish_row(d, m, s, row, u, (1.0f - z) * g + z * h0);
                    });
}

// A step is one phase over all panels, or two with a barrier between them.
using PhaseFn = void (*)(const Direction&, int64_t, int64_t, int64_t, const Units&, const float*);
struct Phase {
  PhaseFn run;
  int64_t gates;   // of its panels
  int64_t offset;  // of its panels in the packed weights of a direction
};
struct Phases {
  int n;
  Phase phase[2];
};
template <Cell kCell>
Phases phases_of(const Params& p, int64_t hidden) {
  if constexpr (kCell == kRnn) return {1, {{step_rnn, 1, 0}, {}}};
  if constexpr (kCell == kLstm) return {1, {{step_lstm, 4, 0}, {}}};
  if (p.linear_before_reset != 0) return {1, {{step_gru, 3, 0}, {}}};
  return {2, {{step_gru_gates, 2, 0}, {step_gru_hidden, 1, packed_floats(hidden, 2)}}};
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
