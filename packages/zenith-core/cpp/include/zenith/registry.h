// Which ISAs this build carries, which of them this machine runs, and their kernel rows.
#pragma once

#include <string>
#include <vector>

#include "zenith/kernel.h"

namespace zenith {

using TableFn = Table (*)();
struct IsaTables {
  const TableFn* families;  // null for those that an overlay has not
  int n_families;

  Table family(int f) const { return families[f] == nullptr ? Table{} : families[f](); }
};

// Note [Overlays]: an instruction set with a base is an overlay. It compiles only the sources that
// gain by its instructions (CMakeLists.txt says which) and has every other row from its base. So a
// set of instructions for one type of number costs a few kernels, not a library. A kernel that pays
// on its instructions alone has no row below.
struct Isa {
  const char* name;
  const char* base;  // nullptr: complete, every source was compiled for it
  int vec_bytes;
  bool (*runs_here)();
  IsaTables (*tables)();
};

// Best first; only those this machine runs. ZENITH_ISA in the environment removes better ones.
const std::vector<Isa>& usable_isas();
// Names of every ISA in this build, best first.
std::vector<std::string> built_isas();

// The row of the ISA, or of the nearest below it that has one; nullptr when none has.
const Kernel* find_kernel(const std::string& isa, const std::string& name);
const Packer* find_packer(const std::string& isa, const std::string& name);
// Whose row find_kernel gives; nullptr when there is none.
const Isa* kernel_owner(const std::string& isa, const std::string& name);

}  // namespace zenith
