#include "zenith/registry.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>

#include "cpu/isa/amx.h"

namespace zenith {

#define ZENITH_DECLARE_ISA(name) \
  namespace name {               \
  IsaTables tables();            \
  }

// The build defines ZENITH_HAVE_<isa> for every instruction set it compiled.
#ifdef ZENITH_HAVE_amx
ZENITH_DECLARE_ISA(amx)
#endif
#ifdef ZENITH_HAVE_avx512_vnni
ZENITH_DECLARE_ISA(avx512_vnni)
#endif
#ifdef ZENITH_HAVE_avx512
ZENITH_DECLARE_ISA(avx512)
#endif
#ifdef ZENITH_HAVE_avx2
ZENITH_DECLARE_ISA(avx2)
#endif
#ifdef ZENITH_HAVE_sse4
ZENITH_DECLARE_ISA(sse4)
#endif
#ifdef ZENITH_HAVE_neon
ZENITH_DECLARE_ISA(neon)
#endif
#ifdef ZENITH_HAVE_wide
ZENITH_DECLARE_ISA(wide)
#endif

namespace {

[[maybe_unused]] bool always() { return true; }
#if defined(__x86_64__)
[[maybe_unused]] bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
[[maybe_unused]] bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}
[[maybe_unused]] bool has_avx512_vnni() {
  return has_avx512() && __builtin_cpu_supports("avx512vnni") &&
         __builtin_cpu_supports("avx512bf16");
}
[[maybe_unused]] bool has_amx() {
  return has_avx512_vnni() && __builtin_cpu_supports("amx-tile") &&
         __builtin_cpu_supports("amx-bf16") && __builtin_cpu_supports("amx-int8") && request_amx();
}
#endif

// Best first. "wide" is the 64-byte source on AVX2 hardware: for tests of the AVX-512 code on
// machines without it, so it comes last and is only ever chosen by name. An overlay comes before
// its base (Note [Overlays]).
const Isa kIsas[] = {
#ifdef ZENITH_HAVE_amx
    {"amx", "avx512_vnni", 64, has_amx, amx::tables},
#endif
#ifdef ZENITH_HAVE_avx512_vnni
    {"avx512_vnni", "avx512", 64, has_avx512_vnni, avx512_vnni::tables},
#endif
#ifdef ZENITH_HAVE_avx512
    {"avx512", nullptr, 64, has_avx512, avx512::tables},
#endif
#ifdef ZENITH_HAVE_avx2
    {"avx2", nullptr, 32, has_avx2, avx2::tables},
#endif
#ifdef ZENITH_HAVE_sse4
    {"sse4", nullptr, 16, always, sse4::tables},
#endif
#ifdef ZENITH_HAVE_neon
    {"neon", nullptr, 16, always, neon::tables},
#endif
#ifdef ZENITH_HAVE_wide
    {"wide", nullptr, 64, has_avx2, wide::tables},
#endif
};

std::vector<Isa> detect() {
  const char* forced = std::getenv("ZENITH_ISA");
  std::vector<Isa> usable;
  bool allowed = forced == nullptr || *forced == 0;
  for (const Isa& isa : kIsas) {
    if (!allowed && std::strcmp(forced, isa.name) == 0) allowed = true;
    if (allowed && isa.runs_here()) usable.push_back(isa);
  }
  if (usable.empty()) {
    std::string message = std::string("ZENITH_ISA=") + (forced ? forced : "") +
                          " is not an instruction set this build can run here; built:";
    for (const Isa& isa : kIsas) message += std::string(" ") + isa.name;
    throw std::runtime_error(message);
  }
  return usable;
}

const Isa* find_isa(const std::string& name) {
  for (const Isa& isa : usable_isas()) {
    if (name == isa.name) return &isa;
  }
  return nullptr;
}

const Isa* base_of(const Isa& isa) { return isa.base == nullptr ? nullptr : find_isa(isa.base); }

template <typename Row>
struct Found {
  const Isa* owner;
  const Row* row;
};

template <typename Row>
Found<Row> find_row(const std::string& isa_name, const std::string& name, const Row* Table::* rows,
                    int Table::* count) {
  for (const Isa* isa = find_isa(isa_name); isa != nullptr; isa = base_of(*isa)) {
    const IsaTables tables = isa->tables();
    for (int f = 0; f < tables.n_families; ++f) {
      const Table table = tables.family(f);
      for (int i = 0; i < table.*count; ++i) {
        if (name == (table.*rows)[i].name) return {isa, &(table.*rows)[i]};
      }
    }
  }
  return {nullptr, nullptr};
}

}  // namespace

const std::vector<Isa>& usable_isas() {
  static const std::vector<Isa> usable = detect();
  return usable;
}

std::vector<std::string> built_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : kIsas) names.emplace_back(isa.name);
  return names;
}

const Kernel* find_kernel(const std::string& isa, const std::string& name) {
  return find_row(isa, name, &Table::kernels, &Table::n_kernels).row;
}

const Isa* kernel_owner(const std::string& isa, const std::string& name) {
  return find_row(isa, name, &Table::kernels, &Table::n_kernels).owner;
}

const Packer* find_packer(const std::string& isa, const std::string& name) {
  return find_row(isa, name, &Table::packers, &Table::n_packers).row;
}

}  // namespace zenith
