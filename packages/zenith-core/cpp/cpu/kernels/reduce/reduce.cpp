// Sum, mean, max and their like over any axes of a strided tensor.
//
// Kept and reduced axes are each merged where the input allows it. If the innermost reduced axis is
// contiguous (or nothing is), every output is reduced on its own, by vectors where possible; if a
// kept axis is, whole rows of outputs are accumulated at once. When there are few outputs the
// reduction is cut into parts, whose number depends on the shape only: results do not depend on
// the number of threads.
#include "cpu/kernels/reduce/reduce.h"

namespace zenith::ZENITH_ISA {
namespace {

enum ReduceOp : int64_t { kSum, kMean, kMax, kMin, kProd, kL1, kL2, kSumSquare, kLogSum };

struct Params {
  int64_t op;
  Ints<kMaxRank> axes;  // not negative
};
const Field kFields[] = {
    ZENITH_FIELD(Params, op, kInt, 1),
    ZENITH_FIELD(Params, axes, kInts, kMaxRank),
};

constexpr int64_t kTaskElements = 16384;
constexpr int64_t kMaxParts = 32;
constexpr int64_t kColumns = 256;   // outputs accumulated together
constexpr int64_t kFlushRows = 32;  // rows added in f32 before going to double

struct Axes {
  int rank = 0;
  int64_t size[kMaxRank];
  int64_t in[kMaxRank];   // strides
  int64_t out[kMaxRank];  // strides, of kept axes
};

// Largest input stride outermost, neighbours merged.
void add_axis(Axes& axes, int64_t size, int64_t in, int64_t out) {
  if (size == 1) return;
  int at = axes.rank++;
  for (; at > 0 && axes.in[at - 1] < in; --at) {
    axes.size[at] = axes.size[at - 1];
    axes.in[at] = axes.in[at - 1];
    axes.out[at] = axes.out[at - 1];
  }
  axes.size[at] = size;
  axes.in[at] = in;
  axes.out[at] = out;
}

void merge(Axes& axes) {
  int last = 0;
  for (int d = 1; d < axes.rank; ++d) {
    if (axes.in[last] == axes.in[d] * axes.size[d] &&
        axes.out[last] == axes.out[d] * axes.size[d]) {
      axes.size[last] *= axes.size[d];
    } else {
      axes.size[++last] = axes.size[d];
    }
    axes.in[last] = axes.in[d];
    axes.out[last] = axes.out[d];
  }
  axes.rank = axes.rank == 0 ? 0 : last + 1;
}

int64_t count_of(const Axes& axes) {
  int64_t n = 1;
  for (int d = 0; d < axes.rank; ++d) n *= axes.size[d];
  return n;
}

struct Offsets {
  int64_t in, out;
};
Offsets offsets_at(const Axes& axes, int rank, int64_t index) {
  Offsets at = {0, 0};
  for (int d = rank - 1; d >= 0; --d) {
    at.in += index % axes.size[d] * axes.in[d];
    at.out += index % axes.size[d] * axes.out[d];
    index /= axes.size[d];
  }
  return at;
}

struct Layout {
  Axes kept, reduced;
  bool columns;  // the innermost kept axis is contiguous and outputs go in rows
  int64_t outputs;
  int64_t elements;  // per output
  int64_t runs;      // the reduced index without its innermost axis (columns: with it)
  int64_t run;       // length of the innermost reduced axis; 1 for columns
  int64_t width;     // columns: the innermost kept axis
  int64_t groups;    // columns: outputs / width * blocks per row; else outputs
  int64_t parts;
  bool split_run;  // parts cut the run, not the runs
};

Layout layout_of(const Call& call) {
  const Params& params = *static_cast<const Params*>(call.params);
  const TensorRef& x = call.in[0];
  const TensorRef& y = call.out[0];
  bool reduced[kMaxRank] = {};
  for (int64_t i = 0; i < params.axes.n; ++i) reduced[params.axes.v[i]] = true;
  Layout l;
  int own = 0;
  for (int d = 0; d < x.rank; ++d) {
    const bool in_output = y.rank == x.rank || !reduced[d];
    if (reduced[d]) {
      add_axis(l.reduced, x.shape[d], x.strides[d], 0);
    } else {
      add_axis(l.kept, x.shape[d], x.strides[d], y.strides[own]);
    }
    if (in_output) ++own;
  }
  merge(l.kept);
  merge(l.reduced);
  const int k = l.kept.rank - 1, r = l.reduced.rank - 1;
  l.outputs = count_of(l.kept);
  l.elements = count_of(l.reduced);
  l.columns = k >= 0 && l.kept.in[k] == 1 && l.kept.size[k] >= 4 && (r < 0 || l.reduced.in[r] != 1);
  l.width = l.columns ? l.kept.size[k] : 1;
  l.run = l.columns || r < 0 ? 1 : l.reduced.size[r];
  l.runs = l.run == 0 ? 0 : l.elements / l.run;
  l.groups = l.columns
                 ? l.outputs / (l.width == 0 ? 1 : l.width) * ((l.width + kColumns - 1) / kColumns)
                 : l.outputs;
  l.split_run = !l.columns && l.runs <= 1;
  const int64_t total = l.outputs * l.elements;
  const int64_t pieces = l.split_run ? l.run : l.runs;
  l.parts = 1;
  if (l.groups > 0 && l.groups < kMaxParts && total >= 2 * kTaskElements) {
    l.parts = kMaxParts / l.groups;
    const int64_t by_size = total / l.groups / kTaskElements;
    if (l.parts > by_size) l.parts = by_size;
    if (l.parts > pieces) l.parts = pieces;
    if (l.parts < 1) l.parts = 1;
  }
  return l;
}

template <typename R, typename T>
T finish(const Params& params, int64_t n, Acc<R, T> acc) {
  if constexpr (is_float<T> && R::kWide) {
    if (params.op == kMean) return static_cast<T>(acc / static_cast<double>(n));
    if (params.op == kL2) return static_cast<T>(__builtin_sqrt(acc));
    if (params.op == kLogSum) return static_cast<T>(__builtin_log(acc));
  }
  return static_cast<T>(acc);
}

// Runs [first, last) of one output, or that range of its only run.
template <typename R, typename T>
Acc<R, T> reduce_one(const Layout& l, const T* x, int64_t first, int64_t last) {
  Acc<R, T> acc = static_cast<Acc<R, T>>(start_of<R, T>());
  const int inner = l.reduced.rank - 1;
  const int64_t stride = inner < 0 ? 1 : l.reduced.in[inner];
  const int64_t from = l.split_run ? 0 : first, to = l.split_run ? 1 : last;
  const int64_t n = l.split_run ? last - first : l.run;
  for (int64_t i = from; i < to; ++i) {
    const T* run = x + offsets_at(l.reduced, inner, i).in + (l.split_run ? first * stride : 0);
    if (stride == 1) {
      reduce_run<R, T>(run, n, acc);
    } else {
      for (int64_t j = 0; j < n; ++j) {
        acc = R::join(acc, static_cast<Acc<R, T>>(R::of(run[j * stride])));
      }
    }
  }
  return acc;
}

// R for what went through R::of already.
template <typename R>
struct Joined : R {
  template <typename X>
  static X of(X v) {
    return v;
  }
};

// to[j] = join(to[j], what the rows hold at j), row by row, in vectors.
template <typename R, typename T, int kCount>
void join_rows(T* to, const T* const* rows, int64_t n) {
  constexpr int64_t kN = kVecBytes / static_cast<int64_t>(sizeof(T));
  typedef T U __attribute__((vector_size(kVecBytes), aligned(alignof(T)), may_alias));
  const auto join_at = [&]<typename V>(V* sums, int64_t j) {
    const auto row = [&](int i) { return R::of(*reinterpret_cast<const V*>(rows[i] + j)); };
    if constexpr (kCount == 1) {
      *sums = R::join(*sums, row(0));
    } else {
      *sums = R::join(*sums, R::join(R::join(row(0), row(1)), R::join(row(2), row(3))));
    }
  };
  int64_t j = 0;
  for (; j + kN <= n; j += kN) join_at(reinterpret_cast<U*>(to + j), j);
  for (; j < n; ++j) join_at(to + j, j);
}

// n <= kColumns neighbouring outputs, runs [first, last) of each.
template <typename R, typename T>
void reduce_columns(const Layout& l, const T* x, int64_t n, int64_t first, int64_t last,
                    Acc<R, T>* total) {
  using A = Acc<R, T>;
  const auto row_at = [&](int64_t i) { return x + offsets_at(l.reduced, l.reduced.rank, i).in; };
  T part[kColumns];
  for (int64_t j = 0; j < n; ++j) total[j] = static_cast<A>(start_of<R, T>());
  for (int64_t row = first; row < last; row += kFlushRows) {
    const int64_t end = row + kFlushRows < last ? row + kFlushRows : last;
    for (int64_t j = 0; j < n; ++j) part[j] = start_of<R, T>();
    int64_t i = row;
    for (; i + 4 <= end; i += 4) {
      const T* const rows[] = {row_at(i), row_at(i + 1), row_at(i + 2), row_at(i + 3)};
      join_rows<R, T, 4>(part, rows, n);
    }
    for (; i < end; ++i) {
      const T* const rows[] = {row_at(i)};
      join_rows<R, T, 1>(part, rows, n);
    }
    if constexpr (__is_same(A, T)) {
      const T* const rows[] = {part};
      join_rows<Joined<R>, T, 1>(total, rows, n);
    } else {
      for (int64_t j = 0; j < n; ++j) total[j] = R::join(total[j], static_cast<A>(part[j]));
    }
  }
}

// Where group g starts, and how many outputs it has.
struct Group {
  Offsets at;
  int64_t n, step;  // step: output stride between the group's outputs
};
Group group_at(const Layout& l, int64_t g) {
  if (!l.columns) return {offsets_at(l.kept, l.kept.rank, g), 1, 0};
  const int k = l.kept.rank - 1;
  const int64_t per_row = (l.width + kColumns - 1) / kColumns;
  const int64_t column = g % per_row * kColumns;
  Group group = {offsets_at(l.kept, k, g / per_row), l.width - column, l.kept.out[k]};
  if (group.n > kColumns) group.n = kColumns;
  group.at.in += column;
  group.at.out += column * group.step;
  return group;
}

// One reduction of one type, for a driver that knows neither.
struct Reduction {
  // Groups [first, last), whole.
  void (*groups)(const Params&, const Layout&, int64_t first, int64_t last, const void* x, void* y);
  // Pieces [first, last) of a group: runs, or a range of the only run.
  void (*part)(const Layout&, const Group&, int64_t first, int64_t last, const void* x, void* part);
  // A group from its parts, part_bytes() apart.
  void (*join)(const Params&, const Layout&, const Group&, char* parts, void* y);
};

int64_t pieces_of(const Layout& l) { return l.split_run ? l.run : l.runs; }
int64_t slots_of(const Layout& l) { return l.columns ? kColumns : 1; }
int64_t part_bytes(const Layout& l) { return slots_of(l) * 8; }  // of the widest type

template <typename R, typename T>
struct Typed {
  using A = Acc<R, T>;
  static_assert(sizeof(A) <= 8);

  static void groups(const Params& params, const Layout& l, int64_t first, int64_t last,
                     const void* x, void* y) {
    A sums[kColumns];
    for (int64_t g = first; g < last; ++g) {
      const Group group = group_at(l, g);
      part(l, group, 0, pieces_of(l), x, sums);
      write(params, l, group, sums, y);
    }
  }
  static void part(const Layout& l, const Group& group, int64_t first, int64_t last, const void* x,
                   void* to) {
    const T* from = static_cast<const T*>(x) + group.at.in;
    A* sums = static_cast<A*>(to);
    if (l.columns) {
      reduce_columns<R, T>(l, from, group.n, first, last, sums);
    } else {
      sums[0] = l.elements == 0 ? static_cast<A>(start_of<R, T>())
                                : reduce_one<R, T>(l, from, first, last);
    }
  }
  static void join(const Params& params, const Layout& l, const Group& group, char* parts,
                   void* y) {
    A* sums = reinterpret_cast<A*>(parts);
    for (int64_t i = 1; i < l.parts; ++i) {
      const A* more = reinterpret_cast<const A*>(parts + i * part_bytes(l));
      for (int64_t j = 0; j < group.n; ++j) sums[j] = R::join(sums[j], more[j]);
    }
    write(params, l, group, sums, y);
  }
  static void write(const Params& params, const Layout& l, const Group& group, const A* sums,
                    void* y) {
    T* to = static_cast<T*>(y) + group.at.out;
    for (int64_t j = 0; j < group.n; ++j) {
      to[j * group.step] = finish<R, T>(params, l.elements, sums[j]);
    }
  }
};
template <typename R, typename T>
constexpr Reduction kTyped = {Typed<R, T>::groups, Typed<R, T>::part, Typed<R, T>::join};

void run(const Call& call, const Reduction& reduction) {
  const Params& params = *static_cast<const Params*>(call.params);
  const Layout l = layout_of(call);
  const void* x = call.in[0].data;
  void* y = call.out[0].data;
  const int64_t pieces = pieces_of(l);
  if (l.parts == 1) {
    const int64_t group_elements = slots_of(l) * (l.elements > 0 ? l.elements : 1);
    const int64_t per_task = 1 + (kTaskElements - 1) / group_elements;
    parallel_for(call, (l.groups + per_task - 1) / per_task, [&](int64_t task, int) {
      const int64_t first = task * per_task;
      const int64_t last = first + per_task < l.groups ? first + per_task : l.groups;
      reduction.groups(params, l, first, last, x, y);
    });
    return;
  }
  parallel_for(call, l.groups * l.parts, [&](int64_t task, int) {
    const int64_t i = task % l.parts;
    reduction.part(l, group_at(l, task / l.parts), pieces * i / l.parts, pieces * (i + 1) / l.parts,
                   x, call.scratch + task * part_bytes(l));
  });
  for (int64_t g = 0; g < l.groups; ++g) {
    reduction.join(params, l, group_at(l, g), call.scratch + g * l.parts * part_bytes(l), y);
  }
}

int64_t scratch_reduce(const Call& call) {
  const Layout l = layout_of(call);
  return l.parts > 1 ? l.groups * l.parts * part_bytes(l) : 0;
}

// S: the type, U: the same unsigned, in which sums wrap around. Null: no such reduction.
template <typename S, typename U>
const Reduction* of_integer(int64_t op) {
  switch (op) {
    case kSum:
      return &kTyped<Sum, U>;
    case kProd:
      return &kTyped<Prod, U>;
    case kMax:
      return &kTyped<Max, S>;
    case kMin:
      return &kTyped<Min, S>;
    case kSumSquare:
      return &kTyped<SquareSum, U>;
    default:
      return nullptr;
  }
}

template <typename T>
const Reduction* of_float(int64_t op) {
  switch (op) {
    case kSum:
    case kMean:
    case kLogSum:
      return &kTyped<Sum, T>;
    case kMax:
      return &kTyped<Max, T>;
    case kMin:
      return &kTyped<Min, T>;
    case kProd:
      return &kTyped<Prod, T>;
    case kL1:
      return &kTyped<AbsSum, T>;
    case kL2:
    case kSumSquare:
      return &kTyped<SquareSum, T>;
    default:
      return nullptr;
  }
}

template <typename T>
const Reduction* of_extreme(int64_t op) {
  if (op == kMax) return &kTyped<Max, T>;
  if (op == kMin) return &kTyped<Min, T>;
  return nullptr;
}

const Reduction* find_reduction(DType dtype, int64_t op) {
  switch (dtype) {
    case DType::kF32:
      return of_float<float>(op);
    case DType::kF64:
      return of_float<double>(op);
    case DType::kI64:
      return of_integer<int64_t, uint64_t>(op);
    case DType::kI32:
      return of_integer<int32_t, uint32_t>(op);
    case DType::kU64:
      return of_integer<uint64_t, uint64_t>(op);
    case DType::kU32:
      return of_integer<uint32_t, uint32_t>(op);
    case DType::kI16:
      return of_extreme<int16_t>(op);
    case DType::kU16:
      return of_extreme<uint16_t>(op);
    case DType::kI8:
      return of_extreme<int8_t>(op);
    case DType::kBool:
    case DType::kU8:
      return of_extreme<uint8_t>(op);
    default:
      return nullptr;
  }
}

const char* run_reduce(const Call& call) {
  const int64_t op = static_cast<const Params*>(call.params)->op;
  const Reduction* reduction = find_reduction(call.in[0].dtype, op);
  if (reduction == nullptr) return "no such reduction for this dtype";
  run(call, *reduction);
  return nullptr;
}

const Field kScanFields[] = {
    ZENITH_FIELD(ScanParams, axis, kInt, 1),    ZENITH_FIELD(ScanParams, largest, kInt, 1),
    ZENITH_FIELD(ScanParams, last, kInt, 1),    ZENITH_FIELD(ScanParams, exclusive, kInt, 1),
    ZENITH_FIELD(ScanParams, reverse, kInt, 1),
};

const Kernel kKernels[] = {
    {"reduce", "", kFields, 2, sizeof(Params), scratch_reduce, run_reduce},
    {"arg_reduce", "", kScanFields, 3, sizeof(ScanParams), nullptr, run_arg_reduce},
    {"cumsum", "", kScanFields, 5, sizeof(ScanParams), nullptr, run_cumsum},
    {"cumprod", "", kScanFields, 5, sizeof(ScanParams), nullptr, run_cumprod},
};

}  // namespace

Table reduce_table();
Table reduce_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
