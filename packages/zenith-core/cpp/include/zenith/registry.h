// Which ISAs this build carries, which of them this machine runs, and their kernel rows.
#pragma once

#include <string>
#include <vector>

#include "zenith/kernel.h"

namespace zenith {

struct IsaTables {
  Table (*const* families)();
  int n_families;
};

struct Isa {
  const char* name;
  int vec_bytes;
  bool (*runs_here)();
  IsaTables (*tables)();
};

// Best first; only those this machine runs. ZENITH_ISA in the environment removes better ones.
const std::vector<Isa>& usable_isas();
// Names of every ISA in this build, best first.
std::vector<std::string> built_isas();

// nullptr when the ISA has no such row.
const Kernel* find_kernel(const std::string& isa, const std::string& name);
const Packer* find_packer(const std::string& isa, const std::string& name);

}  // namespace zenith
