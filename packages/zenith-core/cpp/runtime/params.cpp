#include "zenith/params.h"

#include <cstring>
#include <stdexcept>

namespace zenith {
namespace {

[[noreturn]] void reject(const std::string& owner, const std::string& name, const char* why) {
  throw std::invalid_argument(owner + ": parameter '" + name + "' " + why);
}

template <typename From, typename To>
void put_list(const std::string& owner, const Field& field, const std::vector<From>& list,
              char* at) {
  if (static_cast<int64_t>(list.size()) > field.capacity) reject(owner, field.name, "is too long");
  const int64_t n = static_cast<int64_t>(list.size());
  std::memcpy(at, &n, sizeof(n));
  for (size_t i = 0; i < list.size(); ++i) {
    const To item = static_cast<To>(list[i]);
    std::memcpy(at + sizeof(n) + i * sizeof(To), &item, sizeof(To));
  }
}

void put(const std::string& owner, const Field& field, const ParamValue& value, char* params) {
  char* at = params + field.offset;
  const auto* i = std::get_if<int64_t>(&value);
  const auto* d = std::get_if<double>(&value);
  const auto* is = std::get_if<std::vector<int64_t>>(&value);
  const auto* ds = std::get_if<std::vector<double>>(&value);
  switch (field.kind) {
    case Field::kInt:
      if (i == nullptr) reject(owner, field.name, "must be an integer");
      std::memcpy(at, i, sizeof(int64_t));
      return;
    case Field::kFloat: {
      if (i == nullptr && d == nullptr) reject(owner, field.name, "must be a number");
      const float f = static_cast<float>(d != nullptr ? *d : static_cast<double>(*i));
      std::memcpy(at, &f, sizeof(float));
      return;
    }
    case Field::kInts:
      if (is == nullptr) reject(owner, field.name, "must be a list of integers");
      put_list<int64_t, int64_t>(owner, field, *is, at);
      return;
    case Field::kFloats:
      if (ds != nullptr) {
        put_list<double, float>(owner, field, *ds, at);
      } else if (is != nullptr) {
        put_list<int64_t, float>(owner, field, *is, at);
      } else {
        reject(owner, field.name, "must be a list of numbers");
      }
      return;
  }
}

}  // namespace

std::vector<char> fill_params(const std::string& owner, const Field* fields, int n_fields,
                              int64_t params_size, const std::vector<NamedParam>& given) {
  std::vector<char> params(static_cast<size_t>(params_size), 0);
  for (const NamedParam& param : given) {
    bool known = false;
    for (int f = 0; f < n_fields && !known; ++f) known = param.name == fields[f].name;
    if (!known) reject(owner, param.name, "does not exist");
  }
  for (int f = 0; f < n_fields; ++f) {
    const NamedParam* match = nullptr;
    for (const NamedParam& param : given) {
      if (param.name == fields[f].name) match = &param;
    }
    if (match == nullptr) reject(owner, fields[f].name, "is missing");
    put(owner, fields[f], match->value, params.data());
  }
  return params;
}

}  // namespace zenith
