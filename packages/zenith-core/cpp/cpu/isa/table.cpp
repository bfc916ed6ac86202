// Collects the families of one ISA.
#include "zenith/registry.h"

namespace zenith::ZENITH_ISA {
#define ZENITH_FAMILY(name) Table name##_table();
#include "cpu/families.inc"
#undef ZENITH_FAMILY

using TableFn = Table (*)();
static const TableFn kFamilies[] = {
#define ZENITH_FAMILY(name) &name##_table,
#include "cpu/families.inc"
#undef ZENITH_FAMILY
};

IsaTables tables();
IsaTables tables() { return {kFamilies, static_cast<int>(sizeof(kFamilies) / sizeof(*kFamilies))}; }
}  // namespace zenith::ZENITH_ISA
