// What follows the sums of a tile of bfloat16 products, down to memory: steps with operands of
// float32 or bfloat16, then a result of either type. All arithmetic is float32.
#pragma once

#include "cpu/isa/bf16.h"
#include "cpu/isa/epilogue.h"
#include "cpu/isa/short_functions.h"
#include "cpu/kernels/gemm/tile_bf16.h"

namespace zenith::ZENITH_ISA {
namespace {

inline bool is_half(const TensorRef& t) { return item_size(t.dtype) == 2; }

// An operand over the rows and columns of the output, as StepOperand is.
struct TileOperand {
  const void* data;
  int64_t row, col;
  bool half;

  const bf16* halves(int64_t r, int64_t c) const {
    return static_cast<const bf16*>(data) + r * row + c * col;
  }
  const float* floats(int64_t r, int64_t c) const {
    return static_cast<const float*>(data) + r * row + c * col;
  }
  vf at(int64_t r, int64_t c, int n) const {
    if (half) return n == kLanes ? load(halves(r, c)) : load_n(halves(r, c), n);
    return n == kLanes ? load(floats(r, c)) : load_n(floats(r, c), n);
  }
};

// The usual steps, [bias][add][relu or relu6] and, of bfloat16, [bias][add][gelu or silu][mul], are
// part of the store; `rest` goes over the tile before it.
class TileFinish {
 public:
  // ldy: between rows of y, whose columns have stride 1. where(tensor): it as an operand.
  template <typename Where>
  TileFinish(const TensorRef& y, int64_t ldy, const StepCodes& codes, const TensorRef* operands,
             const Where& where)
      : y_(y.data), ldy_(ldy), half_(is_half(y)) {
    const auto next = [&]() -> TileOperand {
      const TensorRef& t = *operands++;
      const StepOperand o = where(t);
      return {o.data, o.row, o.col, is_half(t)};
    };
    int64_t i = 0;
    if (i < codes.n && codes.v[i] == kStepBias && operands->shape[operands->rank - 1] > 1) {
      bias_ = next(), ++i;
    }
    if (i < codes.n && codes.v[i] == kStepAdd && operands->shape[operands->rank - 1] > 1) {
      add_ = next(), ++i;
    }
    if (i < codes.n && (codes.v[i] == kStepRelu || codes.v[i] == kStepRelu6)) {
      low_ = 0;
      if (codes.v[i] == kStepRelu6) high_ = 6;
      ++i;
    } else if (half_ && kShortFunctions && ends_in_swish(codes, i, operands)) {
      swish_ = swish_of(codes.v[i++]);
      if (i < codes.n) mul_ = next(), ++i;
    }
    for (; i < codes.n; ++i) {
      rest_.codes[rest_.n] = codes.v[i];
      if (codes.v[i] <= kStepMul) operands_[rest_.n] = next();
      ++rest_.n;
    }
  }

  // Begins to fetch what tile() will read and write of `rows` rows; near (row, col).
  void fetch(int64_t row, int64_t col, int64_t rows) const {
    const int64_t item = half_ ? 2 : 4;
    const char* y = static_cast<const char*>(y_) + (row * ldy_ + col) * item;
    // Whole lines that are written from registers are not waited for.
    for (int64_t r = 0; !kEndsTiles && r < rows; ++r) __builtin_prefetch(y + r * ldy_ * item, 1, 3);
    if (add_.data == nullptr) return;
    const int64_t size = add_.half ? 2 : 4;
    const char* add = static_cast<const char*>(add_.data) + (row * add_.row + col) * size;
    for (int64_t r = 0; r < rows; ++r) __builtin_prefetch(add + r * add_.row * size, 0, 3);
  }

  // A tile from its products down to y without sums in memory, where that is possible. Its parts
  // begin at `rows` of y.
  template <typename Product>
  bool whole(Product& multiplier, const LeftTile& left, const bf16* panel, const Ahead& ahead,
             const int64_t* rows, int64_t col, int64_t cols) const {
    if constexpr (kEndsTiles) {
      const bool steps = half_ && swish_ == nullptr && rest_.n == 0;
      const bool halves =
          (bias_.data == nullptr || bias_.half) && (add_.data == nullptr || add_.half);
      if (!steps || !halves || cols < kCols || left.depth == 0) return false;
      TileEnd end{};
      end.bias = bias_.data == nullptr ? nullptr : bias_.halves(0, col);
      end.add_row = add_.row, end.y_row = ldy_, end.low = low_, end.high = high_;
      for (int64_t i = 0; i < kParts && left.rows[i] > 0; ++i) {
        end.add[i] = add_.data == nullptr ? nullptr : add_.halves(rows[i], col);
        end.y[i] = static_cast<bf16*>(y_) + rows[i] * ldy_ + col;
      }
      multiplier.run(left, panel, end, ahead);
      return true;
    }
    return false;
  }

  // sums[rows][ld] of the elements of y from (row, col) on; they are overwritten.
  void tile(float* sums, int64_t ld, int64_t row, int64_t col, int64_t rows, int64_t cols) const {
    if (kShortFunctions && swish_ != nullptr) {
      swish_tile(sums, ld, row, col, rows, cols);
    } else if (rest_.n > 0) {
      store_as(sums, ld, row, col, rows, cols, sums, ld);
      apply_rest(sums, ld, row, col, rows, cols);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t at = (row + r) * ldy_ + col;
        half_ ? convert_row(sums + r * ld, cols, static_cast<bf16*>(y_) + at)
              : convert_row(sums + r * ld, cols, static_cast<float*>(y_) + at);
      }
    } else if (half_) {
      store_as(sums, ld, row, col, rows, cols, static_cast<bf16*>(y_) + row * ldy_ + col, ldy_);
    } else {
      store_as(sums, ld, row, col, rows, cols, static_cast<float*>(y_) + row * ldy_ + col, ldy_);
    }
  }

 private:
  static constexpr int64_t kMostRows = 32, kMostCols = 64;  // of a tile with more than usual steps

  // Whether what is left is one of the functions, and perhaps a product with *next of many
  // columns.
  static bool ends_in_swish(const StepCodes& codes, int64_t i, const TensorRef* next) {
    if (i >= codes.n || swish_of(codes.v[i]) == nullptr) return false;
    const bool product = i + 2 == codes.n && codes.v[i + 1] == kStepMul;
    return i + 1 == codes.n || (product && next->shape[next->rank - 1] > 1);
  }

  template <typename T>
  void store_as(const float* sums, int64_t ld, int64_t row, int64_t col, int64_t rows, int64_t cols,
                T* y, int64_t ldy) const {
    int64_t j = 0;
    for (; j + 2 * kLanes <= cols; j += 2 * kLanes) {
      columns<2>(sums + j, ld, row, col + j, rows, kLanes, y + j, ldy);
    }
    for (; j < cols; j += kLanes) {
      const int64_t n = cols - j < kLanes ? cols - j : kLanes;
      columns<1>(sums + j, ld, row, col + j, rows, static_cast<int>(n), y + j, ldy);
    }
  }

  // kVecs vectors of columns, n lanes of each.
  template <int kVecs, typename T>
  void columns(const float* sums, int64_t ld, int64_t row, int64_t col, int64_t rows, int n, T* y,
               int64_t ldy) const {
    vf bias[kVecs] = {};
    if (bias_.data != nullptr) {
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) bias[v] = bias_.at(0, col + v * kLanes, n);
    }
    const auto with = [&](const auto& add) {
      if (high_ == __builtin_inff()) {
        run<kVecs, false>(sums, ld, rows, bias, y, ldy, n, add);
      } else {
        run<kVecs, true>(sums, ld, rows, bias, y, ldy, n, add);
      }
    };
    const int64_t add_row = add_.row;
    if (add_.data == nullptr) {
      with([](vf sum, int64_t, int) { return sum; });
    } else if (n == kLanes && add_.half) {
      const bf16* add = add_.halves(row, col);
      with([&](vf sum, int64_t i, int v) { return sum + load(add + i * add_row + v * kLanes); });
    } else {
      with([&](vf sum, int64_t i, int v) { return sum + add_.at(row + i, col + v * kLanes, n); });
    }
  }

  template <int kVecs, bool kBelow, typename T, typename Add>
  [[gnu::always_inline]] void run(const float* sums, int64_t ld, int64_t rows,
                                  const vf (&bias)[kVecs], T* y, int64_t ldy, int n,
                                  const Add& add) const {
    const vf low = splat(low_), high = splat(high_);
    for (int64_t i = 0; i < rows; ++i, sums += ld, y += ldy) {
      vf value[kVecs];
#pragma GCC unroll 2
      for (int v = 0; v < kVecs; ++v) {
        value[v] = vmax(low, add(load(sums + v * kLanes) + bias[v], i, v));
        if constexpr (kBelow) value[v] = vmin(high, value[v]);
      }
      if constexpr (kVecs == 2) {
        store_two(y, value[0], value[1]);
      } else if (n == kLanes) {
        store(y, value[0]);
      } else {
        store_n(y, value[0], n);
      }
    }
  }

  void swish_tile(const float* sums, int64_t ld, int64_t row, int64_t col, int64_t rows,
                  int64_t cols) const {
    const Swish s = *swish_;
    for (int64_t j = 0; j < cols; j += kLanes) {
      const int n = static_cast<int>(cols - j < kLanes ? cols - j : kLanes);
      const vf bias = bias_.data == nullptr ? vf{} : bias_.at(0, col + j, n);
      bf16* y = static_cast<bf16*>(y_) + row * ldy_ + col + j;
      for (int64_t i = 0; i < rows; ++i, y += ldy_) {
        vf sum = load(sums + i * ld + j) + bias;
        if (add_.data != nullptr) sum += add_.at(row + i, col + j, n);
        vf value = swish(sum, s);
        if (mul_.data != nullptr) value *= mul_.at(row + i, col + j, n);
        if (n == kLanes) {
          store(y, value);
        } else {
          store_n(y, value, n);
        }
      }
    }
  }

  void apply_rest(float* tile, int64_t ld, int64_t row, int64_t col, int64_t rows,
                  int64_t cols) const {
    alignas(64) float widened[kMostRows * kMostCols];
    for (int i = 0; i < rest_.n; ++i) {
      Epilogue one{};
      one.codes[one.n++] = rest_.codes[i];
      if (rest_.codes[i] <= kStepMul) {
        const TileOperand& o = operands_[i];
        if (!o.half) {
          one.operands[0] = {o.floats(row, col), o.row, o.col};
        } else {
          const int64_t different = o.row == 0 ? 1 : rows, width = o.col == 0 ? 1 : cols;
          for (int64_t r = 0; r < different; ++r) {
            convert_row(o.halves(row + r, col), width, widened + r * kMostCols);
          }
          one.operands[0] = {widened, o.row == 0 ? 0 : kMostCols, o.col};
        }
        if (i + 1 < rest_.n && rest_.codes[i + 1] > kStepMul) one.codes[one.n++] = rest_.codes[++i];
      }
      apply_epilogue(one, 0, 0, rows, cols, tile, ld);
    }
  }

  void* y_;
  int64_t ldy_;
  bool half_;
  TileOperand bias_{}, add_{}, mul_{};  // data is null without one
  const Swish* swish_ = nullptr;        // null without one
  float low_ = -__builtin_inff(), high_ = __builtin_inff();
  Epilogue rest_{};
  TileOperand operands_[kMaxSteps]{};  // of the rest, by step
};

}  // namespace
}  // namespace zenith::ZENITH_ISA
