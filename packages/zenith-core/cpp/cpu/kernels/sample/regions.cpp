// Regions of interest and deformed windows: x [N, H, W, C], channels with stride 1; y is dense.
#include "cpu/kernels/sample/sample.h"

namespace zenith::ZENITH_ISA {
namespace {

struct RoiParams {
  int64_t take_max;
  int64_t half_pixel;
  int64_t sampling_ratio;
  float spatial_scale;
};
const Field kRoiFields[] = {
    ZENITH_FIELD(RoiParams, take_max, kInt, 1),
    ZENITH_FIELD(RoiParams, half_pixel, kInt, 1),
    ZENITH_FIELD(RoiParams, sampling_ratio, kInt, 1),
    ZENITH_FIELD(RoiParams, spatial_scale, kFloat, 1),
};

float number(const TensorRef& t, int64_t i, int64_t j) {
  return static_cast<const float*>(t.data)[i * t.strides[0] + j * t.strides[1]];
}

struct Corners {
  int64_t offset[4];
  float weight[4];
};

// The four pixels around (y, x), clamped to the image; false where that is too far outside.
bool corners_of(const TensorRef& image, float y, float x, Corners* c) {
  const int64_t h = image.shape[1], w = image.shape[2];
  const auto fh = static_cast<float>(h), fw = static_cast<float>(w);
  if (!(y >= -1 && y <= fh && x >= -1 && x <= fw)) return false;
  y = y > 0 ? y : 0, x = x > 0 ? x : 0;
  const int64_t top = least(static_cast<int64_t>(y), h - 1);
  const int64_t left = least(static_cast<int64_t>(x), w - 1);
  const int64_t bottom = least(top + 1, h - 1), right = least(left + 1, w - 1);
  const float ly = top == h - 1 ? 0 : y - static_cast<float>(top);
  const float lx = left == w - 1 ? 0 : x - static_cast<float>(left);
  const int64_t rows[2] = {top * image.strides[1], bottom * image.strides[1]};
  const int64_t cols[2] = {left * image.strides[2], right * image.strides[2]};
  const float by_row[2] = {1 - ly, ly}, by_col[2] = {1 - lx, lx};
  for (int i = 0; i < 4; ++i) {
    c->offset[i] = rows[i / 2] + cols[i % 2];
    c->weight[i] = by_row[i / 2] * by_col[i % 2];
  }
  return true;
}

int64_t samples_of(int64_t ratio, float bin) {
  if (ratio > 0) return ratio;
  const float n = __builtin_ceilf(tame(bin));
  return n > 0 ? static_cast<int64_t>(n < 65536 ? n : 65536) : 0;
}

// rois [R, 4] as x1, y1, x2, y2; batch [R] says which image; y [R, PH, PW, C].
const char* run_roi_align(const Call& call) {
  const auto& p = *static_cast<const RoiParams*>(call.params);
  const TensorRef &x = call.in[0], &rois = call.in[1], &batch = call.in[2], &y = call.out[0];
  const auto image_of = [&](int64_t r) {
    return static_cast<const int64_t*>(batch.data)[r * batch.strides[0]];
  };
  for (int64_t r = 0; r < y.shape[0]; ++r) {
    if (image_of(r) < 0 || image_of(r) >= x.shape[0]) return "RoiAlign: no such image";
  }
  const int64_t channels = y.shape[3];
  const auto ph = static_cast<float>(y.shape[1]), pw = static_cast<float>(y.shape[2]);
  for_each_line(call, y.shape[0] * y.shape[1], [&](int64_t line, int) {
    const int64_t r = line / y.shape[1];
    const auto row = static_cast<float>(line % y.shape[1]);
    const float shift = p.half_pixel != 0 ? 0.5f : 0;
    const float left = number(rois, r, 0) * p.spatial_scale - shift;
    const float top = number(rois, r, 1) * p.spatial_scale - shift;
    float width = number(rois, r, 2) * p.spatial_scale - shift - left;
    float height = number(rois, r, 3) * p.spatial_scale - shift - top;
    if (p.half_pixel == 0) width = width > 1 ? width : 1, height = height > 1 ? height : 1;
    const float bin_h = height / ph, bin_w = width / pw;
    const int64_t down = samples_of(p.sampling_ratio, bin_h);
    const int64_t across = samples_of(p.sampling_ratio, bin_w);
    const auto fdown = static_cast<float>(down), facross = static_cast<float>(across);
    const float* from = static_cast<const float*>(x.data) + image_of(r) * x.strides[0];
    float* to = static_cast<float*>(y.data) + line * y.shape[2] * channels;
    for (int64_t col = 0; col < y.shape[2]; ++col, to += channels) {
      std::memset(to, 0, static_cast<size_t>(channels) * 4);
      bool first = true;
      for (int64_t i = 0; i < down; ++i) {
        const float at_y = top + row * bin_h + (static_cast<float>(i) + 0.5f) * bin_h / fdown;
        for (int64_t j = 0; j < across; ++j) {
          const float at_x = left + static_cast<float>(col) * bin_w +
                             (static_cast<float>(j) + 0.5f) * bin_w / facross;
          Corners c{};
          const bool inside = corners_of(x, at_y, at_x, &c);
          if (p.take_max == 0) {
            if (!inside) continue;
            for (int64_t k = 0; k < channels; ++k) {
              float v = 0;
              for (int t = 0; t < 4; ++t) v += c.weight[t] * from[c.offset[t] + k];
              to[k] += v;
            }
            continue;
          }
          // ONNX takes the largest of the weighted corners, not of their sums.
          for (int64_t k = 0; k < channels; ++k) {
            float v = c.weight[0] * from[c.offset[0] + k];
            for (int t = 1; t < 4; ++t) {
              const float other = c.weight[t] * from[c.offset[t] + k];
              v = other > v ? other : v;
            }
            to[k] = first || v > to[k] ? v : to[k];
          }
          first = false;
        }
      }
      if (p.take_max == 0) {
        const float scale = 1.0f / static_cast<float>(most(1, down * across));
        for (int64_t k = 0; k < channels; ++k) to[k] *= scale;
      }
    }
  });
  return nullptr;
}

// rois [R, 5] as image, x1, y1, x2, y2 with both ends inside; y [R, PH, PW, C].
const char* run_roi_pool(const Call& call) {
  const auto& p = *static_cast<const RoiParams*>(call.params);
  const TensorRef &x = call.in[0], &rois = call.in[1], &y = call.out[0];
  const auto image_of = [&](int64_t r) { return static_cast<int64_t>(tame(number(rois, r, 0))); };
  for (int64_t r = 0; r < y.shape[0]; ++r) {
    if (image_of(r) < 0 || image_of(r) >= x.shape[0]) return "MaxRoiPool: no such image";
  }
  const int64_t channels = y.shape[3];
  // Element range of one bin along an axis.
  const auto range = [](int64_t start, int64_t end, int64_t bin, int64_t bins, int64_t size,
                        int64_t* first, int64_t* last) {
    const auto length = static_cast<float>(most(end - start + 1, 1)) / static_cast<float>(bins);
    const auto begin = static_cast<int64_t>(__builtin_floorf(static_cast<float>(bin) * length));
    const auto stop = static_cast<int64_t>(__builtin_ceilf(static_cast<float>(bin + 1) * length));
    *first = least(most(begin + start, 0), size), *last = least(most(stop + start, 0), size);
  };
  const auto pixel = [&](int64_t r, int64_t i) {
    const float v = tame(number(rois, r, i) * p.spatial_scale);
    return static_cast<int64_t>(v < 0 ? __builtin_ceilf(v - 0.5f) : __builtin_floorf(v + 0.5f));
  };
  for_each_line(call, y.shape[0] * y.shape[1], [&](int64_t line, int) {
    const int64_t r = line / y.shape[1];
    int64_t top, bottom, left, right;
    range(pixel(r, 2), pixel(r, 4), line % y.shape[1], y.shape[1], x.shape[1], &top, &bottom);
    const float* from = static_cast<const float*>(x.data) + image_of(r) * x.strides[0];
    float* to = static_cast<float*>(y.data) + line * y.shape[2] * channels;
    for (int64_t col = 0; col < y.shape[2]; ++col, to += channels) {
      range(pixel(r, 1), pixel(r, 3), col, y.shape[2], x.shape[2], &left, &right);
      std::memset(to, 0, static_cast<size_t>(channels) * 4);
      for (int64_t h = top; h < bottom; ++h) {
        for (int64_t w = left; w < right; ++w) {
          const float* at = from + h * x.strides[1] + w * x.strides[2];
          const bool first = h == top && w == left;
          for (int64_t k = 0; k < channels; ++k) to[k] = first || at[k] > to[k] ? at[k] : to[k];
        }
      }
    }
  });
  return nullptr;
}

struct DeformParams {
  Ints<2> kernel_shape;
  Ints<2> strides;
  Ints<2> pads;  // top and left
  Ints<2> dilations;
  int64_t offset_group;
};
const Field kDeformFields[] = {
    ZENITH_FIELD(DeformParams, kernel_shape, kInts, 2),
    ZENITH_FIELD(DeformParams, strides, kInts, 2),
    ZENITH_FIELD(DeformParams, pads, kInts, 2),
    ZENITH_FIELD(DeformParams, dilations, kInts, 2),
    ZENITH_FIELD(DeformParams, offset_group, kInt, 1),
};

// What a deformable convolution multiplies: y [N, OH, OW, taps, C] from x, offsets
// [N, groups * taps * 2, OH, OW] and perhaps a mask [N, groups * taps, OH, OW].
const char* run_deform(const Call& call) {
  const auto& p = *static_cast<const DeformParams*>(call.params);
  const TensorRef &x = call.in[0], &shift = call.in[1], &mask = call.in[2], &y = call.out[0];
  const int64_t taps = y.shape[3], channels = y.shape[4], of_group = channels / p.offset_group;
  const int64_t h = x.shape[1], w = x.shape[2];
  const auto value = [](const TensorRef& t, int64_t n, int64_t c, int64_t i, int64_t j) {
    return static_cast<const float*>(
        t.data)[n * t.strides[0] + c * t.strides[1] + i * t.strides[2] + j * t.strides[3]];
  };
  for_each_line(call, y.shape[0] * y.shape[1], [&](int64_t line, int) {
    const int64_t n = line / y.shape[1], i = line % y.shape[1];
    const float* from = static_cast<const float*>(x.data) + n * x.strides[0];
    float* to = static_cast<float*>(y.data) + line * y.shape[2] * taps * channels;
    for (int64_t j = 0; j < y.shape[2]; ++j) {
      for (int64_t t = 0; t < taps; ++t, to += channels) {
        const int64_t kh = t / p.kernel_shape.v[1], kw = t % p.kernel_shape.v[1];
        const int64_t row = i * p.strides.v[0] - p.pads.v[0] + kh * p.dilations.v[0];
        const int64_t col = j * p.strides.v[1] - p.pads.v[1] + kw * p.dilations.v[1];
        for (int64_t g = 0; g < p.offset_group; ++g) {
          const int64_t at = g * taps + t;
          const float top = tame(static_cast<float>(row) + value(shift, n, 2 * at, i, j));
          const float left = tame(static_cast<float>(col) + value(shift, n, 2 * at + 1, i, j));
          const float by = mask.data == nullptr ? 1 : value(mask, n, at, i, j);
          const float fy = __builtin_floorf(top), fx = __builtin_floorf(left);
          const auto r0 = static_cast<int64_t>(fy), c0 = static_cast<int64_t>(fx);
          const float by_row[2] = {1 - (top - fy), top - fy};
          const float by_col[2] = {1 - (left - fx), left - fx};
          int64_t offset[4];
          float weight[4];
          int count = 0;
          for (int k = 0; k < 4; ++k) {
            const int64_t r = r0 + k / 2, c = c0 + k % 2;
            if (r < 0 || r >= h || c < 0 || c >= w) continue;
            offset[count] = r * x.strides[1] + c * x.strides[2] + g * of_group;
            weight[count++] = by_row[k / 2] * by_col[k % 2] * by;
          }
          sum_pixels(from, offset, weight, count, to + g * of_group, of_group);
        }
      }
    }
  });
  return nullptr;
}

const Kernel kKernels[] = {
    {"roi_align_f32", "", kRoiFields, 4, sizeof(RoiParams), nullptr, run_roi_align},
    {"max_roi_pool_f32", "", kRoiFields, 4, sizeof(RoiParams), nullptr, run_roi_pool},
    {"deform_columns_f32", "", kDeformFields, 5, sizeof(DeformParams), nullptr, run_deform},
};

}  // namespace

Table sample_regions_table();
Table sample_regions_table() { return {kKernels, 3, nullptr, 0}; }

}  // namespace zenith::ZENITH_ISA
