#include <torch/csrc/utils/pybind.h>

#include "hccl.h"
#include "simulated_npu.h"

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
    using namespace simulated_npu;
    m.def("device_count", [] { return static_cast<int>(device_count()); });
    m.def("current_device", [] { return static_cast<int>(current_device()); });
    m.def("set_device", [](int index) { choose_device(static_cast<c10::DeviceIndex>(index)); });
    m.def("device_was_chosen", &device_was_chosen);
    m.def("use_device", &use_device);
    m.def("is_used", &is_used);
    m.def("in_bad_fork", &in_bad_fork);
    m.def("default_generator", [](int index) { return default_generator(static_cast<c10::DeviceIndex>(index)); });
    m.def("memory_figures", [](int index) {
        const auto figures = memory_figures(static_cast<c10::DeviceIndex>(index));
        return std::make_tuple(figures.current, figures.peak, figures.limit);
    });
    m.def("reset_peak_memory", [](int index) { reset_peak_memory(static_cast<c10::DeviceIndex>(index)); });
    m.def("make_hccl", &make_hccl, pybind11::call_guard<pybind11::gil_scoped_release>());
}
