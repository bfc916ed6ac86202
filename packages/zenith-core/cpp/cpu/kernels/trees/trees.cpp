// Forests of decision trees: rows of features go down every tree, and what their leaves weigh is
// added up, or the least or most of it is taken.
#include "zenith/kernel.h"

namespace zenith::ZENITH_ISA {
namespace {

// A node sends a row to child 1 if its feature is at most `split` (or equal to it), else to child
// 0: by index, for nobody can predict a branch here. A leaf sends every row to itself. feature: an
// index, and the bits below.
template <typename T>
struct Node {
  T split;
  uint32_t feature;
  int32_t child[2];
};

constexpr uint32_t kEqual = 1u << 31;    // equal, not at most
constexpr uint32_t kMissing = 1u << 30;  // NaN goes to child 1
constexpr uint32_t kIndex = kMissing - 1;

constexpr int64_t kLanes = 16;
constexpr int64_t kBlock = 128;  // rows of a task: a tree stays in cache for them
constexpr int64_t kTrees = 64;   // trees of a task; results are the same for any number of rows

enum How : int64_t { kSum, kMin, kMax };
struct Params {
  int64_t how;
  int64_t inner;  // nodes before the leaves
  int64_t plain;  // no node has one of the bits
};
const Field kFields[] = {
    ZENITH_FIELD(Params, how, kInt, 1),
    ZENITH_FIELD(Params, inner, kInt, 1),
    ZENITH_FIELD(Params, plain, kInt, 1),
};

template <typename T, bool kPlain>
int32_t next_node(const Node<T>* nodes, int32_t at, const T* row) {
  const Node<T>& node = nodes[at];
  const T value = row[kPlain ? node.feature : node.feature & kIndex];
  bool holds = value <= node.split;
  if (!kPlain) {
    const bool equal = (node.feature & kEqual) != 0, missing = (node.feature & kMissing) != 0;
    holds = (holds & !(equal & (value < node.split))) | (missing & (value != value));
  }
  return node.child[holds];
}

// Pairs of a row and a tree that go down together, so that their loads overlap.
template <typename T>
struct Lanes {
  const T* row[kLanes];
  int32_t at[kLanes];  // a root, and in the end a leaf
};

template <typename T, bool kPlain>
void descend(const Node<T>* nodes, Lanes<T>* lanes, int64_t count) {
  int32_t moved = 1;
  while (moved != 0) {
    moved = 0;
    for (int64_t l = 0; l < count; ++l) {
      const int32_t next = next_node<T, kPlain>(nodes, lanes->at[l], lanes->row[l]);
      moved |= next ^ lanes->at[l];
      lanes->at[l] = next;
    }
  }
}

template <typename T>
void combine(T* into, T value, int64_t how) {
  const bool take = how == kMin ? value < *into : value > *into;
  if (how == kSum) {
    *into += value;
  } else if (take) {
    *into = value;
  }
}

// What a target is without any weight.
template <typename T>
T neutral(int64_t how) {
  constexpr T most = sizeof(T) == 4 ? static_cast<T>(__FLT_MAX__) : static_cast<T>(__DBL_MAX__);
  return how == kSum ? T{0} : how == kMin ? most : -most;
}

// in: x [n, features], nodes [count, bytes], roots [trees], targets of the leaves [leaves] (empty:
// a leaf weighs for every target), weights [leaves] or [leaves, targets]; out: [n, targets].
template <typename T, bool kPlain>
void block(const Call& call, const Params& p, int64_t first, int64_t rows, int64_t tree,
           int64_t trees, T none, T* to) {
  const TensorRef& x = call.in[0];
  const auto* nodes = static_cast<const Node<T>*>(call.in[1].data);
  const auto* roots = static_cast<const int32_t*>(call.in[2].data);
  const auto* targets = static_cast<const int32_t*>(call.in[3].data);
  const auto* weights = static_cast<const T*>(call.in[4].data);
  const int64_t width = call.out[0].shape[1], step = x.shape[1];
  const bool one = element_count(call.in[3]) > 0 || width == 0;
  for (int64_t i = 0; i < rows * width; ++i) to[i] = none;
  // Many rows with each tree, or many trees with each row; trees in their order either way.
  const bool by_rows = rows >= kLanes;
  const int64_t outer = by_rows ? trees : rows, inner = by_rows ? rows : trees;
  Lanes<T> lanes;
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t i = 0; i < inner; i += kLanes) {
      const int64_t count = inner - i < kLanes ? inner - i : kLanes;
      for (int64_t l = 0; l < count; ++l) {
        const int64_t r = by_rows ? i + l : o, t = by_rows ? o : i + l;
        lanes.row[l] = static_cast<const T*>(x.data) + (first + r) * step;
        lanes.at[l] = roots[tree + t];
      }
      descend<T, kPlain>(nodes, &lanes, count);
      for (int64_t l = 0; l < count; ++l) {
        const int64_t leaf = lanes.at[l] - p.inner;
        T* mine = to + (by_rows ? i + l : o) * width;
        if (one) {
          combine(mine + targets[leaf], weights[leaf], p.how);
        } else {
          for (int64_t j = 0; j < width; ++j) combine(mine + j, weights[leaf * width + j], p.how);
        }
      }
    }
  }
}

int64_t groups_of(const Call& call) {
  const int64_t trees = call.in[2].shape[0];
  return trees == 0 ? 1 : (trees + kTrees - 1) / kTrees;
}

// What every group of trees comes to, for every row: groups are put together in their order.
int64_t scratch(const Call& call) {
  return groups_of(call) * element_count(call.out[0]) * item_size(call.in[0].dtype);
}

template <typename T, typename Out>
const char* run(const Call& call) {
  const auto& p = *static_cast<const Params*>(call.params);
  const int64_t n = call.in[0].shape[0], width = call.out[0].shape[1];
  const int64_t trees = call.in[2].shape[0], groups = groups_of(call);
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  const T none = neutral<Out>(p.how);
  auto* partial = reinterpret_cast<T*>(call.scratch);
  auto* to = static_cast<Out*>(call.out[0].data);
  parallel_for(call, blocks * groups, [&](int64_t task, int) {
    const int64_t group = task % groups, first = task / groups * kBlock;
    const int64_t rows = n - first < kBlock ? n - first : kBlock, tree = group * kTrees;
    const int64_t count = trees - tree < kTrees ? trees - tree : kTrees;
    T* mine = partial + group * n * width + first * width;
    if (p.plain != 0) {
      block<T, true>(call, p, first, rows, tree, count, none, mine);
    } else {
      block<T, false>(call, p, first, rows, tree, count, none, mine);
    }
  });
  for (int64_t i = 0; i < n * width; ++i) {
    T all = partial[i];
    for (int64_t g = 1; g < groups; ++g) combine(&all, partial[g * n * width + i], p.how);
    to[i] = static_cast<Out>(all);
  }
  return nullptr;
}

const Kernel kKernels[] = {
    {"trees_f32", "", kFields, 3, sizeof(Params), scratch, run<float, float>},
    {"trees_f64", "", kFields, 3, sizeof(Params), scratch, run<double, double>},
    {"trees_f64_f32", "", kFields, 3, sizeof(Params), scratch, run<double, float>},
};

}  // namespace

Table trees_table();
Table trees_table() { return {kKernels, sizeof(kKernels) / sizeof(*kKernels), nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
