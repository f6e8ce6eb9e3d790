// Memory of the devices and page-locked memory of the host, both counted and both ordinary memory.

#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "pinned.h"
#include "simulated_npu.h"

namespace simulated_npu {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kAggregate = 0;

void* aligned(size_t bytes) {
    void* data = nullptr;
    TORCH_CHECK(posix_memalign(&data, kAlignment, bytes) == 0, "the host has no ", bytes, " bytes of memory");
    return data;
}

int64_t memory_limit() {
    const char* mebibytes = std::getenv("SIMULATED_NPU_MEMORY_MIB");
    return (mebibytes ? std::strtoll(mebibytes, nullptr, 10) : 65536) << 20;
}

// What a DataPtr of a device owns: memory of its own, or some of the host that a kernel has left.
struct Block {
    void* data;
    size_t bytes;
    c10::DeviceIndex device;
    at::DataPtr adopted;
};

struct DeviceMemory final : c10::DeviceAllocator {
    std::mutex mutex;
    std::map<c10::DeviceIndex, c10::CachingDeviceAllocator::DeviceStats> stats;

    bool initialized() override {
        return is_used();
    }

    at::DataPtr allocate(size_t bytes) override {
        use_device();
        const auto device = current_device();
        if (bytes == 0) {
            return {nullptr, c10::Device(kNpu, device)};
        }
        count(device, bytes);
        auto* block = new Block{aligned(bytes), bytes, device, {}};
        std::memset(block->data, 0xff, bytes);  // NaN, where a program takes fresh memory for zeros
        return {block->data, block, &release, c10::Device(kNpu, device)};
    }

    at::DataPtr adopt(at::DataPtr host, size_t bytes, c10::DeviceIndex device) {
        void* data = host.get();
        if (data == nullptr || bytes == 0) {
            return {nullptr, c10::Device(kNpu, device)};
        }
        count(device, bytes);
        return {data, new Block{data, bytes, device, std::move(host)}, &release, c10::Device(kNpu, device)};
    }

    void count(c10::DeviceIndex device, size_t bytes) {
        const std::lock_guard<std::mutex> lock(mutex);
        auto& figures = stats[device].allocated_bytes[kAggregate];
        if (figures.current + static_cast<int64_t>(bytes) > memory_limit()) {
            ++stats[device].num_ooms;
            TORCH_CHECK_WITH(
                OutOfMemoryError, false, "NPU out of memory. Tried to allocate ", bytes >> 20, " MiB (NPU ",
                static_cast<int>(device), "; ", memory_limit() >> 20, " MiB total capacity; ", figures.current >> 20,
                " MiB already allocated)");
        }
        figures.increase(bytes);
        stats[device].reserved_bytes[kAggregate].increase(bytes);
    }

    static void release(void* context);

    void copy_data(void* target, const void* source, size_t bytes) const override {
        std::memcpy(target, source, bytes);
    }
    void emptyCache(c10::MempoolId_t) override {}
    void recordStream(const at::DataPtr&, c10::Stream) override {}

    c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex device) override {
        const std::lock_guard<std::mutex> lock(mutex);
        return stats[device];
    }
    void resetAccumulatedStats(c10::DeviceIndex device) override {
        const std::lock_guard<std::mutex> lock(mutex);
        stats[device].allocated_bytes[kAggregate].reset_accumulated();
    }
    void resetPeakStats(c10::DeviceIndex device) override {
        const std::lock_guard<std::mutex> lock(mutex);
        stats[device].allocated_bytes[kAggregate].reset_peak();
        stats[device].reserved_bytes[kAggregate].reset_peak();
    }
    std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex device) override {
        const auto figures = memory_figures(device);
        return {figures.limit - figures.current, figures.limit};
    }
};

DeviceMemory& device_memory() {
    static auto* memory = new DeviceMemory;  // outlives every tensor
    return *memory;
}

void DeviceMemory::release(void* context) {
    auto* block = static_cast<Block*>(context);
    auto& memory = device_memory();
    {
        const std::lock_guard<std::mutex> lock(memory.mutex);
        memory.stats[block->device].allocated_bytes[kAggregate].decrease(block->bytes);
        memory.stats[block->device].reserved_bytes[kAggregate].decrease(block->bytes);
    }
    if (!block->adopted) {
        std::free(block->data);
    }
    delete block;
}

struct PinnedMemory final : at::HostAllocator {
    std::mutex mutex;
    std::map<const char*, size_t> ranges;

    at::DataPtr allocate(size_t bytes) override {
        void* data = aligned(std::max<size_t>(bytes, 1));
        const std::lock_guard<std::mutex> lock(mutex);
        ranges[static_cast<char*>(data)] = std::max<size_t>(bytes, 1);
        return {data, data, &release, at::kCPU};
    }

    static void release(void* data);

    bool contains(const void* data) {
        const std::lock_guard<std::mutex> lock(mutex);
        const auto* address = static_cast<const char*>(data);
        auto after = ranges.upper_bound(address);
        if (after == ranges.begin()) {
            return false;
        }
        --after;
        return address < after->first + after->second;
    }

    void copy_data(void* target, const void* source, size_t bytes) const override {
        std::memcpy(target, source, bytes);
    }
    bool record_event(void*, void*, c10::Stream) override {
        return true;
    }
    void empty_cache() override {}
    at::HostStats get_stats() override {
        return {};
    }
    void reset_accumulated_stats() override {}
    void reset_peak_stats() override {}
};

PinnedMemory& pinned_memory() {
    static auto* memory = new PinnedMemory;
    return *memory;
}

void PinnedMemory::release(void* data) {
    {
        const std::lock_guard<std::mutex> lock(pinned_memory().mutex);
        pinned_memory().ranges.erase(static_cast<char*>(data));
    }
    std::free(data);
}

bool register_allocators() {
    c10::SetAllocator(kNpu, &device_memory());
    at::setHostAllocator(kNpu, &pinned_memory());
    return true;
}
const bool allocators_are_registered = register_allocators();

}  // namespace

at::DataPtr adopt(at::DataPtr host, size_t bytes, c10::DeviceIndex index) {
    return device_memory().adopt(std::move(host), bytes, index);
}

MemoryFigures memory_figures(c10::DeviceIndex index) {
    const auto figures = device_memory().getDeviceStats(index).allocated_bytes[kAggregate];
    return {figures.current, figures.peak, memory_limit()};
}

void reset_peak_memory(c10::DeviceIndex index) {
    device_memory().resetPeakStats(index);
}

c10::Allocator* pinned_allocator() {
    return &pinned_memory();
}

bool is_pinned(const void* data) {
    return pinned_memory().contains(data);
}

}  // namespace simulated_npu
