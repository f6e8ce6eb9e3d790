// A device named npu over host memory, for tests. What it computes is what a CPU computes; what it refuses is what an
// Ascend NPU refuses: tensors of another device, use in a forked child, an index that is not there.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Device.h>

namespace simulated_npu {

constexpr auto kNpu = c10::DeviceType::PrivateUse1;

// The number of devices, from SIMULATED_NPU_COUNT (8).
c10::DeviceIndex device_count() noexcept;

// Every use of the device passes here; raises in the forked child of a process that has used it.
void use_device();
bool is_used() noexcept;
bool in_bad_fork() noexcept;

c10::DeviceIndex current_device() noexcept;
void set_current_device(c10::DeviceIndex index);  // raises for an index that is not there
void choose_device(c10::DeviceIndex index);       // the same, asked for by the program
bool device_was_chosen() noexcept;

// Memory of the host as memory of device `index`, counted like any other.
at::DataPtr adopt(at::DataPtr host, size_t bytes, c10::DeviceIndex index);

struct MemoryFigures {
    int64_t current, peak, limit;
};
MemoryFigures memory_figures(c10::DeviceIndex index);
void reset_peak_memory(c10::DeviceIndex index);

// The generator of device `index`, and the CPU generator that draws for it.
const at::Generator& default_generator(c10::DeviceIndex index);
at::Generator host_generator(const at::Generator& generator);

// `tensor` as a CPU tensor over the same memory; other tensors unchanged.
at::Tensor host_view(const at::Tensor& tensor);

}  // namespace simulated_npu
