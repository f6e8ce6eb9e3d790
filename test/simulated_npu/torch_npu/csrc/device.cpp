// The devices of the process: which are there, which is current, their streams and events, and what torch asks of them.

#include "simulated_npu.h"

#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cstdlib>

#include "pinned.h"

namespace simulated_npu {
namespace {

std::atomic<bool> used{false};
std::atomic<bool> bad_fork{false};
std::atomic<bool> chosen{false};
thread_local c10::DeviceIndex current = 0;
thread_local std::array<c10::StreamId, 128> current_streams{};
std::atomic<c10::StreamId> last_stream{0};

void after_fork_in_child() {
    if (used) {
        bad_fork = true;
    }
}

int register_fork_handler() {
    return pthread_atfork(nullptr, nullptr, after_fork_in_child);
}
const int fork_handler = register_fork_handler();

void check_index(c10::DeviceIndex index) {
    TORCH_CHECK(
        index >= 0 && index < device_count(), "Invalid NPU device ordinal ", static_cast<int>(index), ": there are ",
        static_cast<int>(device_count()), " devices");
}

double now_ms() {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

c10::DeviceIndex device_count() noexcept {
    const char* value = std::getenv("SIMULATED_NPU_COUNT");
    const long count = value ? std::strtol(value, nullptr, 10) : 8;
    return static_cast<c10::DeviceIndex>(std::min(std::max(count, 0L), 100L));
}

bool is_used() noexcept {
    return used;
}

bool in_bad_fork() noexcept {
    return bad_fork;
}

void use_device() {
    TORCH_CHECK(
        !bad_fork,
        "Cannot re-initialize NPU in forked subprocess. To use NPU with multiprocessing, you must use the 'spawn' "
        "start method");
    if (!used) {
        TORCH_CHECK(device_count() > 0, "No NPU is available");
        used = true;
    }
}

c10::DeviceIndex current_device() noexcept {
    return current;
}

void set_current_device(c10::DeviceIndex index) {
    use_device();
    check_index(index);
    current = index;
}

void choose_device(c10::DeviceIndex index) {
    set_current_device(index);
    chosen = true;
}

bool device_was_chosen() noexcept {
    return chosen;
}

namespace {

// Streams and events in name only: every kernel has run when its call returns.
struct Guard final : c10::impl::DeviceGuardImplInterface {
    c10::DeviceType type() const override {
        return kNpu;
    }
    c10::Device exchangeDevice(c10::Device device) const override {
        const auto before = getDevice();
        change(device);
        return before;
    }
    void change(c10::Device device) const {
        TORCH_CHECK(device.type() == kNpu, "Expected an npu device, got ", device);
        if (device.has_index() && device.index() != current) {
            set_current_device(device.index());
        }
    }
    c10::Device getDevice() const override {
        return {kNpu, current};
    }
    void setDevice(c10::Device device) const override {
        change(device);
        chosen = true;
    }
    void uncheckedSetDevice(c10::Device device) const noexcept override {
        if (device.has_index()) {
            current = device.index();
        }
    }
    c10::Stream stream(c10::Device device, c10::StreamId id) const {
        return c10::Stream(c10::Stream::UNSAFE, c10::Device(kNpu, device.has_index() ? device.index() : current), id);
    }
    c10::Stream getStream(c10::Device device) const override {
        return stream(device, current_streams[device.has_index() ? device.index() : current]);
    }
    c10::Stream getDefaultStream(c10::Device device) const override {
        return stream(device, 0);
    }
    c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
        return stream(device, ++last_stream);
    }
    c10::Stream getNewStream(c10::Device device, int) const override {
        return stream(device, ++last_stream);
    }
    c10::Stream exchangeStream(c10::Stream next) const override {
        const auto before = getStream(next.device());
        current_streams[next.device_index()] = next.id();
        return before;
    }
    void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
        delete static_cast<double*>(event);
    }
    void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
        if (!*event) {
            *event = new double;
        }
        *static_cast<double*>(*event) = now_ms();
    }
    void block(void*, const c10::Stream&) const override {}
    bool queryEvent(void*) const override {
        return true;
    }
    c10::DeviceIndex deviceCount() const noexcept override {
        return device_count();
    }
    bool queryStream(const c10::Stream&) const override {
        return true;
    }
    void synchronizeStream(const c10::Stream&) const override {
        use_device();
    }
    void synchronizeEvent(void*) const override {}
    void synchronizeDevice(c10::DeviceIndex index) const override {
        use_device();
        check_index(index);
    }
    double elapsedTime(void* first, void* second, c10::DeviceIndex) const override {
        return *static_cast<double*>(second) - *static_cast<double*>(first);
    }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
    bool isBuilt() const override {
        return true;
    }
    bool isAvailable() const override {
        return device_count() > 0;
    }
    bool hasPrimaryContext(c10::DeviceIndex) const override {
        return is_used();
    }
    void init() const override {
        use_device();
    }
    c10::DeviceIndex deviceCount() const override {
        return device_count();
    }
    void setCurrentDevice(c10::DeviceIndex index) const override {
        choose_device(index);
    }
    c10::DeviceIndex getCurrentDevice() const override {
        return current;
    }
    c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
        const auto before = current;
        set_current_device(index);
        return before;
    }
    c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
        return exchangeDevice(index);
    }
    const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
        return default_generator(index < 0 ? current : index);
    }
    at::Generator getNewGenerator(c10::DeviceIndex index) const override {
        auto generator = default_generator(index < 0 ? current : index).clone();
        generator.set_current_seed(at::default_rng_seed_val);
        return generator;
    }
    at::Device getDeviceFromPtr(void*) const override {
        return {kNpu, current};
    }
    bool isPinnedPtr(const void* data) const override {
        return is_pinned(data);
    }
    at::Allocator* getPinnedMemoryAllocator() const override {
        use_device();
        return pinned_allocator();
    }
    void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
        const c10::DeviceGuard guard(storage.device());
        at::native::resize_bytes_cpu(storage.unsafeGetStorageImpl(), bytes);
    }
};

bool register_hooks() {
    at::RegisterPrivateUse1HooksInterface(new Hooks);
    return true;
}
const bool hooks_are_registered = register_hooks();

}  // namespace
}  // namespace simulated_npu
