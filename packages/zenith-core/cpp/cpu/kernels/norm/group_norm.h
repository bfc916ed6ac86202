// Group and instance normalisation of [N, C, P], row-major or channels-last, and an activation.
#pragma once

#include "cpu/isa/short_functions.h"
#include "cpu/kernels/norm/sums.h"

namespace zenith::ZENITH_ISA {
namespace {

// in: x[N, C, P], scale[C], bias[C]; out: y like x. Strides of (C, P) are (P, 1), or (1, anything)
// with the same choice in x and y; the stride of N is free. `groups` divides C. The epilogue has no
// operands.
struct GroupNormParams {
  float epsilon;
  int64_t groups;
  StepCodes epilogue;
};
const Field kGroupNormFields[] = {ZENITH_FIELD(GroupNormParams, epsilon, kFloat, 1),
                                  ZENITH_FIELD(GroupNormParams, groups, kInt, 1),
                                  ZENITH_FIELD(GroupNormParams, epilogue, kInts, kMaxSteps)};

constexpr int64_t kPart = 1 << 13;    // elements whose sums are made at once: read twice, from L1
constexpr int64_t kNearby = 1 << 18;  // elements that are still in a cache when they are normalised
constexpr int64_t kTile = 1 << 11;    // elements normalised before the epilogue goes over them
constexpr int64_t kAbreast = 8;       // positions added up before their sum goes to a total

inline int64_t at_least_one(int64_t n) { return n < 1 ? 1 : n; }
inline int64_t whole_lines(int64_t n) { return (n + 15) / 16 * 16; }  // floats in cache lines
inline int64_t whole_vectors(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// How a tensor is cut. A set is what is normalised by itself: an image (channels-last), or a group
// or some small ones of it (row-major). Sums are made of fixed parts of a set and then merged in
// order, so that a result depends neither on threads nor on the other sets.
struct GroupCuts {
  int64_t channels, positions, size;  // size: channels of a group
  bool last;                          // channels-last
  int64_t groups;                     // of an image
  int64_t side;                       // most groups of a set
  int64_t cuts;                       // sets of an image
  int64_t sets;
  int64_t extent;  // what is cut: positions (channels-last) or the elements of a group
  int64_t part;    // of `extent`
  int64_t parts;
  int64_t nearby;  // sets between whose two readings caches keep them

  GroupCuts(const TensorRef& x, int64_t n_groups)
      : channels(x.shape[1]),
        positions(x.shape[2]),
        size(channels / n_groups),
        last(x.strides[2] != 1 || x.strides[1] == 1),
        groups(n_groups) {
    extent = last ? positions : positions * size;
    part = last ? at_least_one(kPart / channels / kAbreast) * kAbreast : kPart;
    parts = (extent + part - 1) / part;
    side = last ? groups : at_least_one(kPart / 2 / extent);
    if (side > groups) side = groups;
    cuts = (groups + side - 1) / side;
    sets = x.shape[0] * cuts;
    nearby = at_least_one(kNearby / (side * size * positions));
    if (nearby > sets) nearby = sets;
  }

  int64_t length(int64_t index) const {
    return extent - index * part < part ? extent - index * part : part;
  }
  // Elements of a group in each of `extent`.
  int64_t weight() const { return last ? size : 1; }
  // Floats. Of a set: means and sums of squares of its parts and then of all, by group; means and
  // factors by channel. Of a worker: two numbers a channel, and a tile.
  int64_t statistics() const { return (parts + 1) * 2 * whole_vectors(side); }
  int64_t of_set() const { return whole_lines(statistics() + 2 * side * size); }
  int64_t of_worker() const {
    return whole_lines(2 * whole_vectors(channels) + (channels > kTile ? channels : kTile));
  }
  int64_t slots(int threads) const { return parts == 1 ? threads : nearby; }
};

// total[c] += sum over COUNT positions of x[c], or of (x[c] - mean[c])^2.
template <bool SQUARES, int COUNT, typename T>
[[gnu::always_inline]] inline void add_columns(const T* x, int64_t step, int64_t channels,
                                               const float* mean, float* total) {
  const auto add = [&](int64_t c, float* to, const auto& from, const auto& means) {
    vf sums[COUNT];
    const vf m = means(mean + c);
#pragma GCC unroll 8
    for (int p = 0; p < COUNT; ++p) {
      const vf v = from(x + p * step + c);
      sums[p] = SQUARES ? (v - m) * (v - m) : v;
    }
#pragma GCC unroll 3
    for (int half = COUNT / 2; half > 0; half /= 2) {
#pragma GCC unroll 4
      for (int p = 0; p < half; ++p) sums[p] += sums[p + half];
    }
    store(to, load(to) + sums[0]);
  };
  const auto whole = [](const auto* p) { return load(p); };
  if (channels < kLanes) {
    const auto some = [n = static_cast<int>(channels)](const auto* p) { return load_n(p, n); };
    return add(0, total, some, some);
  }
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) add(c, total + c, whole, whole);
  // The last vector overlaps the one before, and has a total of its own.
  if (c < channels) add(channels - kLanes, total + c, whole, whole);
}

// total[c] = the same over n positions. total has whole vectors.
template <bool SQUARES, typename T>
[[gnu::noinline]] void sum_columns(const T* x, int64_t step, int64_t n, int64_t channels,
                                   const float* mean, float* total) {
  for (int64_t c = 0; c < channels; c += kLanes) store(total + c, vf{});
  int64_t p = 0;
  for (; p + kAbreast <= n; p += kAbreast, x += kAbreast * step) {
    add_columns<SQUARES, kAbreast>(x, step, channels, mean, total);
  }
  for (; p < n; ++p, x += step) add_columns<SQUARES, 1>(x, step, channels, mean, total);
  if (channels > kLanes) {
    store(total + channels - kLanes, load(total + whole_vectors(channels) - kLanes));
  }
}

template <typename T>
class GroupNorm {
 public:
  GroupNorm(const Call& call, const GroupCuts& cuts)
      : call_(call),
        cuts_(cuts),
        params_(*static_cast<const GroupNormParams*>(call.params)),
        epilogue_(make_epilogue(params_.epilogue, nullptr)),
        sets_(reinterpret_cast<float*>(call.scratch)),
        workers_(sets_ + cuts.slots(call.parallel.threads) * cuts.of_set()) {
    if constexpr (sizeof(T) == 2) {
      float* wide = workers_ + call.parallel.threads * cuts.of_worker();
      convert_row(static_cast<const T*>(call.in[1].data), cuts.channels, wide);
      convert_row(static_cast<const T*>(call.in[2].data), cuts.channels, wide + cuts.channels);
      scale_ = wide, bias_ = wide + cuts.channels;
      if (kShortFunctions && epilogue_.n == 1) swish_ = swish_of(epilogue_.codes[0]);
    } else {
      scale_ = static_cast<const float*>(call.in[1].data);
      bias_ = static_cast<const float*>(call.in[2].data);
    }
  }

  void run() const {
    if (cuts_.parts == 1) {
      parallel_for(call_, cuts_.sets, [&](int64_t set, int worker) {
        const Part p = part(set, 0, worker);
        sum(p, worker), merge(p), scale(p, worker);
      });
      return;
    }
    const int64_t parts = cuts_.parts;
    for (int64_t first = 0; first < cuts_.sets; first += cuts_.nearby) {
      const int64_t rest = cuts_.sets - first, some = rest < cuts_.nearby ? rest : cuts_.nearby;
      parallel_for(call_, some * parts, [&](int64_t task, int worker) {
        sum(part(first + task / parts, task % parts, task / parts), worker);
      });
      parallel_for(call_, some, [&](int64_t set, int) { merge(part(first + set, 0, set)); });
      parallel_for(call_, some * parts, [&](int64_t task, int worker) {
        scale(part(first + task / parts, task % parts, task / parts), worker);
      });
    }
  }

 private:
  // A part of a set whose numbers are in a slot.
  struct Part {
    const T* x;  // where the set begins
    T* y;
    int64_t index, slot, group, groups;
  };

  Part part(int64_t set, int64_t index, int64_t slot) const {
    const TensorRef &x = call_.in[0], &y = call_.out[0];
    const int64_t image = set / cuts_.cuts, group = set % cuts_.cuts * cuts_.side;
    const int64_t at = cuts_.last ? 0 : group * cuts_.extent, rest = cuts_.groups - group;
    return {static_cast<const T*>(x.data) + image * x.strides[0] + at,
            static_cast<T*>(y.data) + image * y.strides[0] + at,
            index,
            slot,
            group,
            rest < cuts_.side ? rest : cuts_.side};
  }

  // By group; behind those of all parts the ones of the set.
  float* means(int64_t slot, int64_t index) const {
    return sets_ + slot * cuts_.of_set() + index * 2 * whole_vectors(cuts_.side);
  }
  float* squares(int64_t slot, int64_t index) const {
    return means(slot, index) + whole_vectors(cuts_.side);
  }
  float* channel_means(int64_t slot) const {
    return sets_ + slot * cuts_.of_set() + cuts_.statistics();
  }
  float* channel_factors(int64_t slot) const {
    return channel_means(slot) + cuts_.side * cuts_.size;
  }

  [[gnu::noinline]] void sum(const Part& p, int worker) const {
    float *mean = means(p.slot, p.index), *square = squares(p.slot, p.index);
    const int64_t n = cuts_.length(p.index), size = cuts_.size;
    if (cuts_.last) {
      float* total = workers_ + worker * cuts_.of_worker();
      float* by_channel = total + whole_vectors(cuts_.channels);
      const int64_t step = call_.in[0].strides[2];
      const T* x = p.x + p.index * cuts_.part * step;
      sum_columns<false>(x, step, n, cuts_.channels, by_channel, total);
      for (int64_t g = 0; g < p.groups; ++g) {
        mean[g] = sum_of(total + g * size, size) / static_cast<float>(n * size);
        for (int64_t c = 0; c < size; ++c) by_channel[g * size + c] = mean[g];
      }
      sum_columns<true>(x, step, n, cuts_.channels, by_channel, total);
      for (int64_t g = 0; g < p.groups; ++g) square[g] = sum_of(total + g * size, size);
      return;
    }
    for (int64_t g = 0; g < p.groups; ++g) {
      const T* x = p.x + g * cuts_.extent + p.index * cuts_.part;
      mean[g] = sum_lanes(lane_sums<false>(x, n, 0)) / static_cast<float>(n);
      square[g] = sum_lanes(lane_sums<true>(x, n, mean[g]));
    }
  }

  static float sum_of(const float* x, int64_t n) {
    if (n >= kLanes) return sum_lanes(lane_sums<false>(x, n, 0));
    float s = 0;
    for (int64_t i = 0; i < n; ++i) s += x[i];
    return s;
  }

  // The squared differences from the mean of all are those from the mean of a part, and the
  // difference of these means once for each element.
  [[gnu::noinline]] void merge(const Part& p) const {
    const auto count = [&](int64_t i) { return static_cast<float>(cuts_.length(i)); };
    const float weight = static_cast<float>(cuts_.weight());
    const float extent = static_cast<float>(cuts_.extent);
    float *all_means = means(p.slot, cuts_.parts), *all_factors = squares(p.slot, cuts_.parts);
    for (int64_t g = 0; g < p.groups; g += kLanes) {
      vf mean{}, differences{};
      for (int64_t i = 0; i < cuts_.parts; ++i) mean += load(means(p.slot, i) + g) * count(i);
      mean /= extent;
      for (int64_t i = 0; i < cuts_.parts; ++i) {
        const vf d = load(means(p.slot, i) + g) - mean;
        differences += load(squares(p.slot, i) + g) + d * d * (count(i) * weight);
      }
      store(all_means + g, mean);
      store(all_factors + g, 1.0f / vsqrt(differences / (extent * weight) + params_.epsilon));
    }
    float *mean = channel_means(p.slot), *factor = channel_factors(p.slot);
    const float* by = scale_ + p.group * cuts_.size;
    for (int64_t g = 0; g < p.groups; ++g) {
      for (int64_t c = 0; c < cuts_.size; ++c) {
        *mean++ = all_means[g];
        *factor++ = all_factors[g] * *by++;
      }
    }
  }

  [[gnu::noinline]] void scale(const Part& p, int worker) const {
    float* tile = workers_ + worker * cuts_.of_worker() + 2 * whole_vectors(cuts_.channels);
    cuts_.last ? scale_positions(p, tile) : scale_groups(p, tile);
  }

  void scale_positions(const Part& part, float* tile) const {
    const int64_t channels = cuts_.channels, y_step = call_.out[0].strides[2];
    const int64_t step = call_.in[0].strides[2], rows = at_least_one(kTile / channels);
    const int64_t begin = part.index * cuts_.part, end = begin + cuts_.length(part.index);
    const float *mean = channel_means(part.slot), *factor = channel_factors(part.slot);
    for (int64_t p = begin; p < end; p += rows) {
      const int64_t some = end - p < rows ? end - p : rows;
      T* y = part.y + p * y_step;
      float* to = tile;
      int64_t ld = channels;
      if constexpr (sizeof(T) == 4) to = y, ld = y_step;
      for (int64_t r = 0; r < some; ++r) {
        scale_row(part.x + (p + r) * step, channels, to + r * ld, [&](int64_t c, int n) {
          if (n == kLanes) return Scaling{load(mean + c), load(factor + c), load(bias_ + c)};
          return Scaling{load_n(mean + c, n), load_n(factor + c, n), load_n(bias_ + c, n)};
        });
      }
      finish(to, some, channels, ld, y, y_step);
    }
  }

  void scale_groups(const Part& part, float* tile) const {
    const float *mean = channel_means(part.slot), *factor = channel_factors(part.slot);
    const float* bias = bias_ + part.group * cuts_.size;
    for (int64_t g = 0; g < part.groups; ++g) {
      const int64_t first = g * cuts_.extent + part.index * cuts_.part;
      const int64_t end = first + cuts_.length(part.index);
      for (int64_t begin = first; begin < end; begin += kTile) {
        const int64_t some = end - begin < kTile ? end - begin : kTile;
        float* to = tile;
        if constexpr (sizeof(T) == 4) to = part.y + begin;
        int64_t next = 0;
        for (int64_t i = 0; i < some; i = next) {  // as far as one channel goes
          const int64_t c = (begin + i) / cuts_.positions;
          next = (c + 1) * cuts_.positions - begin;
          if (next > some) next = some;
          const Scaling same{splat(mean[c]), splat(factor[c]), splat(bias[c])};
          scale_row(part.x + begin + i, next - i, to + i, [&](int64_t, int) { return same; });
        }
        finish(to, 1, some, some, part.y + begin, some);
      }
    }
  }

  struct Scaling {
    vf mean, factor, bias;
    [[gnu::always_inline]] vf operator()(vf x) const { return (x - mean) * factor + bias; }
  };

  // n numbers, by what of(number, lanes) says of them.
  template <typename F>
  [[gnu::always_inline]] static void scale_row(const T* x, int64_t n, float* y, const F& of) {
    if (n < kLanes) {
      const int some = static_cast<int>(n);
      store_n(y, of(0, some)(load_n(x, some)), some);
      return;
    }
    const int64_t rest = n - kLanes;  // where the last vector begins: it may overlap
    for (int64_t i = 0; i < rest; i += kLanes) store(y + i, of(i, kLanes)(load(x + i)));
    store(y + rest, of(rest, kLanes)(load(x + rest)));
  }

  // The epilogue over tile[rows][cols], and where y is not that memory, into it.
  void finish(float* tile, int64_t rows, int64_t cols, int64_t ld, T* y, int64_t y_step) const {
    if (ld == cols && y_step == cols) cols *= rows, rows = 1;
    if (epilogue_.n > 0 && swish_ == nullptr) {
      apply_epilogue(epilogue_, 0, 0, rows, cols, tile, ld);
    }
    if constexpr (sizeof(T) == 2) {
      for (int64_t r = 0; r < rows; ++r) {
        swish_ == nullptr ? convert_row(tile + r * ld, cols, y + r * y_step)
                          : swish_row(tile + r * ld, cols, y + r * y_step);
      }
    }
  }

  void swish_row(const float* from, int64_t n, T* y) const {
    const Swish s = *swish_;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(y + i, swish(load(from + i), s));
    if (i == n) return;
    const int rest = static_cast<int>(n - i);
    store_n(y + i, swish(load_n(from + i, rest), s), rest);
  }

  const Call& call_;
  const GroupCuts& cuts_;
  const GroupNormParams& params_;
  const Epilogue epilogue_;
  const Swish* swish_ = nullptr;  // the whole epilogue, in few steps
  float *sets_, *workers_;
  const float *scale_, *bias_;
};

int64_t group_norm_scratch(const Call& call) {
  if (element_count(call.out[0]) == 0) return 0;
  const GroupCuts cuts(call.in[0], static_cast<const GroupNormParams*>(call.params)->groups);
  const int64_t weights = item_size(call.in[0].dtype) == 2 ? 2 * cuts.channels : 0;
  const int threads = call.parallel.threads;
  return 4 * (cuts.slots(threads) * cuts.of_set() + threads * cuts.of_worker() + weights);
}

template <typename T>
const char* run_group_norm(const Call& call) {
  if (element_count(call.out[0]) == 0) return nullptr;
  const GroupCuts cuts(call.in[0], static_cast<const GroupNormParams*>(call.params)->groups);
  GroupNorm<T>(call, cuts).run();
  return nullptr;
}

}  // namespace
}  // namespace zenith::ZENITH_ISA
