// Copies between strided tensors of equal shape: the engine under copy, pad, gather and scatter.
//
// A Nest is a copy reduced to its essence: axes of size 1 dropped, axes ordered by the target's
// strides, neighbours that lie alike on both sides merged. Its last axis (c) and one other (r) make
// up tiles; the remaining axes are walked by an odometer. Strides count bytes.
#pragma once

#include "cpu/isa/simd.h"
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

struct Axis {
  int64_t n, src, dst;
};

struct Nest {
  int64_t item;
  int64_t src_start, dst_start;  // bytes from the given pointers, where axes were turned around
  int outer;                     // axes before r and c
  Axis axes[kMaxRank];           // the outer ones
  Axis r, c;
  int64_t outer_count;
};

// Elements that may lie at any address.
template <typename T>
struct Unaligned {
  typedef T type __attribute__((aligned(1), may_alias));
};
template <typename T>
[[gnu::always_inline]] inline void move_item(char* dst, const char* src) {
  *reinterpret_cast<typename Unaligned<T>::type*>(dst) =
      *reinterpret_cast<const typename Unaligned<T>::type*>(src);
}

inline int64_t magnitude(int64_t x) { return x < 0 ? -x : x; }

// strides are in elements, as in TensorRef. An empty shape gives outer_count == 0.
inline Nest make_nest(int rank, const int64_t* shape, const int64_t* src, const int64_t* dst,
                      int64_t item) {
  Nest nest{};
  nest.item = item;
  Axis axes[kMaxRank + 2];
  int n = 0;
  for (int i = 0; i < rank; ++i) {
    if (shape[i] == 0) {
      nest.r = nest.c = {0, 0, 0};
      return nest;
    }
    if (shape[i] == 1) continue;
    Axis axis{shape[i], src[i] * item, dst[i] * item};
    if (axis.dst < 0) {
      nest.src_start += axis.src * (axis.n - 1);
      nest.dst_start += axis.dst * (axis.n - 1);
      axis.src = -axis.src;
      axis.dst = -axis.dst;
    }
    int at = n++;
    for (; at > 0 && axes[at - 1].dst < axis.dst; --at) axes[at] = axes[at - 1];
    axes[at] = axis;
  }
  int kept = 0;
  for (int i = 0; i < n; ++i) {
    if (kept > 0) {
      Axis& last = axes[kept - 1];
      if (last.dst == axes[i].dst * axes[i].n && last.src == axes[i].src * axes[i].n) {
        last = {last.n * axes[i].n, axes[i].src, axes[i].dst};
        continue;
      }
    }
    axes[kept++] = axes[i];
  }
  nest.c = kept > 0 ? axes[kept - 1] : Axis{1, item, item};
  nest.r = {1, 0, 0};
  if (kept > 1) {
    // Beside the target's inner axis, the source's inner axis when it is another one.
    int r = kept - 2;
    if (nest.c.src != item) {
      for (int i = kept - 2; i >= 0; --i) {
        if (axes[i].src == item) r = i;
      }
    }
    nest.r = axes[r];
    for (int i = 0; i < kept - 1; ++i) {
      if (i != r) nest.axes[nest.outer++] = axes[i];
    }
  }
  nest.outer_count = 1;
  for (int i = 0; i < nest.outer; ++i) nest.outer_count *= nest.axes[i].n;
  return nest;
}

// Up to 64 bytes without a call: two overlapping moves per size class, never past the end.
[[gnu::always_inline]] inline void move_small(char* dst, const char* src, int64_t n) {
  typedef char b16 __attribute__((vector_size(16)));
  if (n >= 16) {
    for (int64_t i = 0; i + 16 < n; i += 16) move_item<b16>(dst + i, src + i);
    move_item<b16>(dst + n - 16, src + n - 16);
  } else if (n >= 8) {
    move_item<uint64_t>(dst, src);
    move_item<uint64_t>(dst + n - 8, src + n - 8);
  } else if (n >= 4) {
    move_item<uint32_t>(dst, src);
    move_item<uint32_t>(dst + n - 4, src + n - 4);
  } else if (n >= 2) {
    move_item<uint16_t>(dst, src);
    move_item<uint16_t>(dst + n - 2, src + n - 2);
  } else if (n == 1) {
    *dst = *src;
  }
}

[[gnu::always_inline]] inline void move_run(char* dst, const char* src, int64_t n) {
  if (n <= 64) {
    move_small(dst, src, n);
  } else {
    std::memcpy(dst, src, static_cast<size_t>(n));
  }
}

// out[r][c] = in[c][r] with W columns: planes to pixels, the loop GCC turns into shuffles.
template <typename T, int W>
void interleave(char* dst, const char* src, int64_t rows, int64_t src_step) {
  using U = typename Unaligned<T>::type;
  U* to = reinterpret_cast<U*>(dst);
  const U* from[W];
  for (int w = 0; w < W; ++w) from[w] = reinterpret_cast<const U*>(src + w * src_step);
  for (int64_t r = 0; r < rows; ++r) {
    for (int w = 0; w < W; ++w) to[r * W + w] = from[w][r];
  }
}

template <typename T, int W>
void deinterleave(char* dst, const char* src, int64_t columns, int64_t dst_step) {
  using U = typename Unaligned<T>::type;
  const U* from = reinterpret_cast<const U*>(src);
  U* to[W];
  for (int w = 0; w < W; ++w) to[w] = reinterpret_cast<U*>(dst + w * dst_step);
  for (int64_t c = 0; c < columns; ++c) {
    for (int w = 0; w < W; ++w) to[w][c] = from[c * W + w];
  }
}

// A square of 4-byte items in registers: 8 by 8, or 4 by 4 where vectors are 16 bytes.
constexpr int kSquare = kLanes == 4 ? 4 : 8;
#if ZENITH_VEC_BYTES == 16
typedef int32_t sq __attribute__((vector_size(16)));
typedef int32_t sq_u __attribute__((vector_size(16), aligned(1), may_alias));
[[gnu::always_inline]] inline void transpose_square(char* dst, const char* src, int64_t src_step,
                                                    int64_t dst_step) {
  sq a[4], b[4];
  for (int i = 0; i < 4; ++i) a[i] = *reinterpret_cast<const sq_u*>(src + i * src_step);
  for (int i = 0; i < 2; ++i) {
    b[i] = __builtin_shufflevector(a[i], a[i + 2], 0, 4, 1, 5);
    b[i + 2] = __builtin_shufflevector(a[i], a[i + 2], 2, 6, 3, 7);
  }
  for (int i = 0; i < 2; ++i) {
    a[2 * i] = __builtin_shufflevector(b[2 * i], b[2 * i + 1], 0, 4, 1, 5);
    a[2 * i + 1] = __builtin_shufflevector(b[2 * i], b[2 * i + 1], 2, 6, 3, 7);
  }
  for (int i = 0; i < 4; ++i) *reinterpret_cast<sq_u*>(dst + i * dst_step) = a[i];
}
#else
typedef int32_t sq __attribute__((vector_size(32)));
typedef int32_t sq_u __attribute__((vector_size(32), aligned(1), may_alias));
[[gnu::always_inline]] inline void transpose_square(char* dst, const char* src, int64_t src_step,
                                                    int64_t dst_step) {
  sq a[8], b[8];
  for (int i = 0; i < 8; ++i) a[i] = *reinterpret_cast<const sq_u*>(src + i * src_step);
  for (int i = 0; i < 8; i += 2) {
    b[i] = __builtin_shufflevector(a[i], a[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    b[i + 1] = __builtin_shufflevector(a[i], a[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = i; j < i + 2; ++j) {
      a[j] = __builtin_shufflevector(b[j], b[j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      a[j + 2] = __builtin_shufflevector(b[j], b[j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int i = 0; i < 4; ++i) {
    const sq low = __builtin_shufflevector(a[i], a[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    const sq high = __builtin_shufflevector(a[i], a[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    *reinterpret_cast<sq_u*>(dst + i * dst_step) = low;
    *reinterpret_cast<sq_u*>(dst + (i + 4) * dst_step) = high;
  }
}
#endif

template <typename T>
void transpose_edge(char* dst, const char* src, int64_t nr, int64_t nc, int64_t src_step,
                    int64_t dst_step) {
  constexpr int64_t kItem = sizeof(T);
  for (int64_t r = 0; r < nr; ++r) {
    for (int64_t c = 0; c < nc; ++c) {
      move_item<T>(dst + r * dst_step + c * kItem, src + c * src_step + r * kItem);
    }
  }
}

// dst[r][c] = src[c][r], the last index contiguous on both sides. Blocks of 16 columns write whole
// cache lines of 4-byte items; the source lines of a tile stay in the first-level cache until the
// next rows use their other items.
template <typename T>
void transpose_tile(char* dst, const char* src, int64_t nr, int64_t nc, int64_t src_step,
                    int64_t dst_step) {
  constexpr int64_t kItem = sizeof(T);
  constexpr int64_t kRows = 8, kColumns = 16;
  for (int64_t r0 = 0; r0 < nr; r0 += kRows) {
    for (int64_t c0 = 0; c0 < nc; c0 += kColumns) {
      const int64_t br = nr - r0 < kRows ? nr - r0 : kRows;
      const int64_t bc = nc - c0 < kColumns ? nc - c0 : kColumns;
      char* to = dst + r0 * dst_step + c0 * kItem;
      const char* from = src + c0 * src_step + r0 * kItem;
      int64_t rows = 0, columns = 0;  // done in squares
      if constexpr (kItem == 4) {
        rows = br / kSquare * kSquare;
        columns = bc / kSquare * kSquare;
        for (int64_t r = 0; r < rows; r += kSquare) {
          for (int64_t c = 0; c < columns; c += kSquare) {
            transpose_square(to + r * dst_step + c * kItem, from + c * src_step + r * kItem,
                             src_step, dst_step);
          }
        }
      }
      transpose_edge<T>(to + columns * kItem, from + columns * src_step, rows, bc - columns,
                        src_step, dst_step);
      transpose_edge<T>(to + rows * dst_step, from + rows * kItem, br - rows, bc, src_step,
                        dst_step);
    }
  }
}

template <typename T>
void fill_run(char* dst, const char* src, int64_t n) {
  using U = typename Unaligned<T>::type;
  const T value = *reinterpret_cast<const U*>(src);
  U* to = reinterpret_cast<U*>(dst);
  for (int64_t i = 0; i < n; ++i) to[i] = value;
}

// n items with any steps in bytes; src_step 0 repeats one.
template <typename T>
void copy_row(char* dst, int64_t dst_step, const char* src, int64_t src_step, int64_t n) {
  constexpr int64_t kItem = sizeof(T);
  if (dst_step == kItem && src_step == kItem) {
    move_run(dst, src, n * kItem);
  } else if (dst_step == kItem && src_step == 0) {
    if (n > 0) fill_run<T>(dst, src, n);
  } else {
    for (int64_t i = 0; i < n; ++i) move_item<T>(dst + i * dst_step, src + i * src_step);
  }
}

// One tile: nr by nc elements from the given corner.
template <typename T>
void copy_tile(const Nest& nest, char* dst, const char* src, int64_t nr, int64_t nc) {
  constexpr int64_t kItem = sizeof(T);
  const Axis r = nest.r, c = nest.c;
  if (c.dst == kItem && (c.src == kItem || c.src == 0)) {
    for (int64_t i = 0; i < nr; ++i)
      copy_row<T>(dst + i * r.dst, kItem, src + i * r.src, c.src, nc);
  } else if (c.dst == kItem && r.src == kItem && r.dst == nc * kItem && nc <= 4) {
    switch (nc) {
      case 2:
        interleave<T, 2>(dst, src, nr, c.src);
        break;
      case 3:
        interleave<T, 3>(dst, src, nr, c.src);
        break;
      case 4:
        interleave<T, 4>(dst, src, nr, c.src);
        break;
      default:
        transpose_edge<T>(dst, src, nr, nc, c.src, r.dst);
        break;
    }
  } else if (c.dst == kItem && r.src == kItem && c.src == nr * kItem && nr <= 4) {
    switch (nr) {
      case 2:
        deinterleave<T, 2>(dst, src, nc, r.dst);
        break;
      case 3:
        deinterleave<T, 3>(dst, src, nc, r.dst);
        break;
      case 4:
        deinterleave<T, 4>(dst, src, nc, r.dst);
        break;
      default:
        transpose_edge<T>(dst, src, nr, nc, c.src, r.dst);
        break;
    }
  } else if (c.dst == kItem && r.src == kItem && nr > 1) {
    transpose_tile<T>(dst, src, nr, nc, c.src, r.dst);
  } else {
    for (int64_t i = 0; i < nr; ++i)
      copy_row<T>(dst + i * r.dst, c.dst, src + i * r.src, c.src, nc);
  }
}

inline void copy_row(int64_t item, char* dst, int64_t dst_step, const char* src, int64_t src_step,
                     int64_t n) {
  switch (item) {
    case 1:
      copy_row<uint8_t>(dst, dst_step, src, src_step, n);
      break;
    case 2:
      copy_row<uint16_t>(dst, dst_step, src, src_step, n);
      break;
    case 4:
      copy_row<uint32_t>(dst, dst_step, src, src_step, n);
      break;
    default:
      copy_row<uint64_t>(dst, dst_step, src, src_step, n);
      break;
  }
}

inline void copy_tile(const Nest& nest, char* dst, const char* src, int64_t nr, int64_t nc) {
  switch (nest.item) {
    case 1:
      copy_tile<uint8_t>(nest, dst, src, nr, nc);
      break;
    case 2:
      copy_tile<uint16_t>(nest, dst, src, nr, nc);
      break;
    case 4:
      copy_tile<uint32_t>(nest, dst, src, nr, nc);
      break;
    default:
      copy_tile<uint64_t>(nest, dst, src, nr, nc);
      break;
  }
}

// The whole nest on one thread, from the given origins.
inline void copy_nest(const Nest& nest, char* dst, const char* src) {
  dst += nest.dst_start;
  src += nest.src_start;
  if (nest.outer_count == 0) return;
  int64_t index[kMaxRank] = {};
  for (int64_t o = 0; o < nest.outer_count; ++o) {
    copy_tile(nest, dst, src, nest.r.n, nest.c.n);
    for (int d = nest.outer - 1; d >= 0; --d) {
      dst += nest.axes[d].dst;
      src += nest.axes[d].src;
      if (++index[d] < nest.axes[d].n) break;
      dst -= nest.axes[d].dst * nest.axes[d].n;
      src -= nest.axes[d].src * nest.axes[d].n;
      index[d] = 0;
    }
  }
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

// The nest cut into tiles of about 32 KiB, shared by all threads.
inline void copy_parallel(const Call& call, const Nest& nest, char* dst, const char* src) {
  constexpr int64_t kTileBytes = 32768, kTaskBytes = 65536;
  if (nest.outer_count == 0) return;
  dst += nest.dst_start;
  src += nest.src_start;
  const bool transposed = nest.c.src != nest.item && nest.c.src != 0 && nest.r.src == nest.item;
  const int64_t tc = at_most(nest.c.n, transposed && nest.r.n > 4 ? 32 : kTileBytes / nest.item);
  int64_t tr = kTileBytes / (tc * nest.item);
  tr = at_most(nest.r.n, tr > 16 ? tr / 16 * 16 : 16);
  const int64_t tiles_c = ceil_div(nest.c.n, tc), tiles_r = ceil_div(nest.r.n, tr);
  const int64_t units = nest.outer_count * tiles_r * tiles_c;
  const int64_t per_task = ceil_div(kTaskBytes, tr * tc * nest.item);
  parallel_for(call, ceil_div(units, per_task), [&](int64_t task, int) {
    const int64_t end = at_most(units, (task + 1) * per_task);
    for (int64_t unit = task * per_task; unit < end; ++unit) {
      const int64_t c0 = unit % tiles_c * tc, rest = unit / tiles_c;
      const int64_t r0 = rest % tiles_r * tr;
      int64_t o = rest / tiles_r;
      char* to = dst + r0 * nest.r.dst + c0 * nest.c.dst;
      const char* from = src + r0 * nest.r.src + c0 * nest.c.src;
      for (int d = nest.outer - 1; d >= 0; --d) {
        const int64_t i = o % nest.axes[d].n;
        o /= nest.axes[d].n;
        to += i * nest.axes[d].dst;
        from += i * nest.axes[d].src;
      }
      copy_tile(nest, to, from, at_most(tr, nest.r.n - r0), at_most(tc, nest.c.n - c0));
    }
  });
}

// The rows (last axis) of a tensor, walked in order from any row.
struct Rows {
  const TensorRef& t;
  int64_t item, n, step, count;
  int64_t index[kMaxRank] = {};

  explicit Rows(const TensorRef& tensor)
      : t(tensor),
        item(item_size(tensor.dtype)),
        n(tensor.rank > 0 ? tensor.shape[tensor.rank - 1] : 1),
        step(tensor.rank > 0 ? tensor.strides[tensor.rank - 1] * item : item),
        count(1) {
    for (int d = 0; d + 1 < t.rank; ++d) count *= t.shape[d];
  }
  void seek(int64_t row) {
    for (int d = t.rank - 2; d >= 0; --d) {
      index[d] = row % t.shape[d];
      row /= t.shape[d];
    }
  }
  void next() {
    for (int d = t.rank - 2; d >= 0 && ++index[d] == t.shape[d]; --d) index[d] = 0;
  }
  // The row of `other`, which has at least these outer axes, at the current index.
  char* of(const TensorRef& other) const {
    int64_t offset = 0;
    for (int d = 0; d + 1 < t.rank; ++d) offset += index[d] * other.strides[d];
    return static_cast<char*>(other.data) + offset * item;
  }
};

// body(rows) for every row of `out`, in chunks of about 64 KiB over the threads.
template <typename F>
void for_rows(const Call& call, const TensorRef& out, const F& body) {
  const Rows first(out);
  if (first.n == 0 || first.count == 0) return;
  const int64_t per_task = ceil_div(65536, first.n * first.item);
  parallel_for(call, ceil_div(first.count, per_task), [&](int64_t task, int) {
    Rows rows(out);
    rows.seek(task * per_task);
    const int64_t end = at_most(first.count, (task + 1) * per_task);
    for (int64_t row = task * per_task; row < end; ++row, rows.next()) body(rows);
  });
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
