// Collects the families of one ISA: all of them, or for an overlay those compiled for it too.
#include "zenith/registry.h"

#ifdef ZENITH_OVERLAY
#define ZENITH_FAMILY(name)
#else
#define ZENITH_FAMILY(name) ZENITH_LAYERED_FAMILY(name)
#endif

namespace zenith::ZENITH_ISA {
#define ZENITH_LAYERED_FAMILY(name) Table name##_table();
#include "cpu/families.inc"
#undef ZENITH_LAYERED_FAMILY

using TableFn = Table (*)();
static const TableFn kFamilies[] = {
#define ZENITH_LAYERED_FAMILY(name) &name##_table,
#include "cpu/families.inc"
#undef ZENITH_LAYERED_FAMILY
};

IsaTables tables();
IsaTables tables() { return {kFamilies, static_cast<int>(sizeof(kFamilies) / sizeof(*kFamilies))}; }
}  // namespace zenith::ZENITH_ISA
