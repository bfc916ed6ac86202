// Fills the Params struct of a kernel or packer by name, from its field table.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "zenith/kernel.h"

namespace zenith {

using ParamValue = std::variant<int64_t, double, std::vector<int64_t>, std::vector<double>>;
struct NamedParam {
  std::string name;
  ParamValue value;
};

// Throws std::invalid_argument unless the given names are exactly the fields and every value fits
// its field: an attribute can neither get lost nor be made up.
std::vector<char> fill_params(const std::string& owner, const Field* fields, int n_fields,
                              int64_t params_size, const std::vector<NamedParam>& given);

}  // namespace zenith
