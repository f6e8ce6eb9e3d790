// Generators of the devices. Each draws with a CPU generator of its own, because CPU kernels accept no other.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/GeneratorForPrivateuseone.h>

#include <memory>
#include <vector>

#include "simulated_npu.h"

namespace simulated_npu {
namespace {

struct NpuGenerator final : c10::GeneratorImpl {
    at::Generator host;

    NpuGenerator(c10::DeviceIndex index, at::Generator drawing)
        : c10::GeneratorImpl(c10::Device(kNpu, index), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
          host(std::move(drawing)) {}

    static c10::DeviceType device_type() {
        return kNpu;
    }
    void set_current_seed(uint64_t seed) override {
        host.set_current_seed(seed);
    }
    void set_offset(uint64_t) override {
        TORCH_CHECK(false, "the simulated NPU's generator has no offset");
    }
    uint64_t get_offset() const override {
        TORCH_CHECK(false, "the simulated NPU's generator has no offset");
    }
    uint64_t current_seed() const override {
        return host.current_seed();
    }
    uint64_t seed() override {
        return host.seed();
    }
    void set_state(const c10::TensorImpl& state) override {
        host.unsafeGetGeneratorImpl()->set_state(state);
    }
    c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
        return host.unsafeGetGeneratorImpl()->get_state();
    }
    NpuGenerator* clone_impl() const override {
        return new NpuGenerator(device().index(), host.clone());
    }
};

}  // namespace

const at::Generator& default_generator(c10::DeviceIndex index) {
    static const auto* generators = [] {
        auto* made = new std::vector<at::Generator>;
        for (c10::DeviceIndex device = 0; device < device_count(); ++device) {
            made->push_back(at::make_generator<NpuGenerator>(device, at::detail::createCPUGenerator()));
        }
        return made;
    }();
    TORCH_CHECK(index >= 0 && index < static_cast<int>(generators->size()), "Invalid NPU device ordinal");
    return (*generators)[index];
}

at::Generator host_generator(const at::Generator& generator) {
    TORCH_CHECK(
        generator.device().type() == kNpu, "Expected a 'npu' device type for generator but found '",
        generator.device().type(), "'");
    return static_cast<NpuGenerator*>(generator.unsafeGetGeneratorImpl())->host;
}

}  // namespace simulated_npu
