// What is used here of DLPack, the standard for tensors in memory: the description of a tensor, and
// the table of C functions that a Python type offers as __dlpack_c_exchange_api__ since DLPack 1.3.
// https://dmlc.github.io/dlpack/latest/c_api.html
#pragma once

#include <cstdint>

namespace zenith {

constexpr uint32_t kDLPackMajor = 1;
constexpr int32_t kDLCpu = 1;  // a device type

enum DLCode : uint8_t { kDLInt = 0, kDLUInt = 1, kDLFloat = 2, kDLBfloat = 4, kDLBool = 6 };

struct DLDevice {
  int32_t type;
  int32_t id;
};

struct DLDataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  int32_t rank;
  DLDataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct DLVersion {
  uint32_t major;
  uint32_t minor;
};

struct DLExchange {
  DLVersion version;
  const void* previous;
  void* allocate;
  void* export_managed;
  void* import_managed;
  // Fills in what `tensor` is; shape and strides stay the tensor's. Not 0: a Python error is set.
  int (*read)(void* tensor, DLTensor* out);
  void* current_stream;
};

}  // namespace zenith
