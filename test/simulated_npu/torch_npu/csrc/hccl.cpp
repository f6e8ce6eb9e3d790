#include "hccl.h"

#include <set>

#include "simulated_npu.h"

namespace simulated_npu {
namespace {

using c10d::Work;
using Tensors = std::vector<at::Tensor>;
using WorkPtr = c10::intrusive_ptr<Work>;

const std::set<at::ScalarType> kReduced = {
    at::kChar, at::kShort, at::kInt, at::kLong, at::kHalf, at::kFloat, at::kBFloat16};

// Gloo's work, with npu tensors as its result.
class HcclWork final : public Work {
  public:
    HcclWork(WorkPtr gloo, Tensors outputs, c10d::OpType type, int rank, c10::Device device)
        : Work(rank, type), gloo_(std::move(gloo)), outputs_(std::move(outputs)) {
        if (c10d::isP2POp(type)) {
            return;
        }
        future_ = c10::make_intrusive<c10::ivalue::Future>(
            c10::ListType::create(c10::TensorType::get()), std::vector<c10::Device>{device});
        gloo_->getFuture()->addCallback(
            [future = future_, outputs = outputs_](c10::ivalue::Future& done) {
                if (done.hasError()) {
                    future->setError(done.exception_ptr());
                } else {
                    future->markCompleted(c10::IValue(outputs));
                }
            },
            /*uses_future=*/true);
    }
    bool isCompleted() override {
        return gloo_->isCompleted();
    }
    bool isSuccess() const override {
        return gloo_->isSuccess();
    }
    std::exception_ptr exception() const override {
        return gloo_->exception();
    }
    int sourceRank() const override {
        return gloo_->sourceRank();
    }
    Tensors result() override {
        return outputs_;
    }
    void synchronize() override {
        gloo_->wait();
    }
    bool wait(std::chrono::milliseconds timeout) override {
        return gloo_->wait(timeout);
    }
    void abort() override {
        gloo_->abort();
    }
    c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
        TORCH_CHECK(future_, "HCCL gives no future for point-to-point work");
        return future_;
    }

  private:
    WorkPtr gloo_;
    Tensors outputs_;
    c10::intrusive_ptr<c10::ivalue::Future> future_;
};

Tensors host_views(const Tensors& tensors) {
    Tensors views;
    for (const auto& tensor : tensors) {
        views.push_back(host_view(tensor));
    }
    return views;
}

std::vector<Tensors> host_views(const std::vector<Tensors>& lists) {
    std::vector<Tensors> views;
    for (const auto& list : lists) {
        views.push_back(host_views(list));
    }
    return views;
}

Tensors flat(const std::vector<Tensors>& lists) {
    Tensors all;
    for (const auto& list : lists) {
        all.insert(all.end(), list.begin(), list.end());
    }
    return all;
}

class Hccl final : public c10d::Backend {
  public:
    Hccl(c10::intrusive_ptr<c10d::Store> store, c10::intrusive_ptr<c10d::Backend> gloo)
        : Backend(gloo->getRank(), gloo->getSize()), store_(std::move(store)), gloo_(std::move(gloo)) {}

    const std::string getBackendName() const override {
        return "hccl";
    }
    c10::intrusive_ptr<Options> getBackendOptions() override {
        return c10::make_intrusive<Options>("hccl");
    }
    uint64_t getSequenceNumberForGroup() override {
        return gloo_->getSequenceNumberForGroup();
    }
    void setTimeout(std::chrono::milliseconds timeout) override {
        gloo_->setTimeout(timeout);
    }

    WorkPtr broadcast(Tensors& tensors, const c10d::BroadcastOptions& options) override {
        check(tensors);
        auto views = host_views(tensors);
        return work(gloo_->broadcast(views, options), tensors, c10d::OpType::BROADCAST);
    }
    WorkPtr allreduce(Tensors& tensors, const c10d::AllreduceOptions& options) override {
        check_reduced(tensors, options.reduceOp, "AllReduce & Reduce");
        auto views = host_views(tensors);
        return work(gloo_->allreduce(views, options), tensors, c10d::OpType::ALLREDUCE);
    }
    WorkPtr allreduce_coalesced(Tensors& tensors, const c10d::AllreduceCoalescedOptions& options) override {
        check_reduced(tensors, options.reduceOp, "AllReduce & Reduce");
        auto views = host_views(tensors);
        return work(gloo_->allreduce_coalesced(views, options), tensors, c10d::OpType::ALLREDUCE_COALESCED);
    }
    WorkPtr reduce(Tensors& tensors, const c10d::ReduceOptions& options) override {
        check_reduced(tensors, options.reduceOp, "AllReduce & Reduce");
        auto views = host_views(tensors);
        return work(gloo_->reduce(views, options), tensors, c10d::OpType::REDUCE);
    }
    WorkPtr allgather(std::vector<Tensors>& outputs, Tensors& inputs, const c10d::AllgatherOptions& options) override {
        check(flat(outputs));
        check(inputs);
        auto output_views = host_views(outputs);
        auto input_views = host_views(inputs);
        return work(gloo_->allgather(output_views, input_views, options), flat(outputs), c10d::OpType::ALLGATHER);
    }
    WorkPtr all_gather_single(
        at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options) override {
        check({output, input});
        auto output_view = host_view(output);
        auto input_view = host_view(input);
        return work(
            gloo_->all_gather_single(output_view, input_view, options), {output}, c10d::OpType::_ALLGATHER_BASE);
    }
    WorkPtr scatter(Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ScatterOptions& options) override {
        check(outputs);
        check(flat(inputs));
        auto output_views = host_views(outputs);
        auto input_views = host_views(inputs);
        return work(gloo_->scatter(output_views, input_views, options), outputs, c10d::OpType::SCATTER);
    }
    WorkPtr reduce_scatter(
        Tensors& outputs, std::vector<Tensors>& inputs, const c10d::ReduceScatterOptions& options) override {
        check_reduced(outputs, options.reduceOp, "ReduceScatter");
        check_reduced(flat(inputs), options.reduceOp, "ReduceScatter");
        auto output_views = host_views(outputs);
        auto input_views = host_views(inputs);
        return work(
            gloo_->reduce_scatter(output_views, input_views, options), outputs, c10d::OpType::REDUCE_SCATTER);
    }
    WorkPtr reduce_scatter_single(
        at::Tensor& output, at::Tensor& input, const c10d::ReduceScatterOptions& options) override {
        check_reduced({output, input}, options.reduceOp, "ReduceScatter");
        auto output_view = host_view(output);
        auto input_view = host_view(input);
        return work(
            gloo_->reduce_scatter_single(output_view, input_view, options), {output},
            c10d::OpType::_REDUCE_SCATTER_BASE);
    }
    WorkPtr send(Tensors& tensors, int rank, int tag) override {
        check(tensors);
        auto views = host_views(tensors);
        return work(gloo_->send(views, rank, tag), tensors, c10d::OpType::SEND);
    }
    WorkPtr recv(Tensors& tensors, int rank, int tag) override {
        check(tensors);
        auto views = host_views(tensors);
        return work(gloo_->recv(views, rank, tag), tensors, c10d::OpType::RECV);
    }
    WorkPtr barrier(const c10d::BarrierOptions& options) override {
        use_device();
        return work(gloo_->barrier(options), {}, c10d::OpType::BARRIER);
    }

  private:
    void check(const Tensors& tensors) {
        use_device();
        for (const auto& tensor : tensors) {
            TORCH_CHECK(tensor.is_privateuseone(), "Tensors must be NPU and dense, got one on ", tensor.device());
            TORCH_CHECK(tensor.is_contiguous(), "HCCL: Tensors must be contiguous");
            claim(tensor.device().index());
        }
    }

    void check_reduced(const Tensors& tensors, const c10d::ReduceOp& op, const char* name) {
        check(tensors);
        for (const auto& tensor : tensors) {
            TORCH_CHECK(
                kReduced.count(tensor.scalar_type()), "HCCL ", name, ": Unsupported data type ", tensor.scalar_type());
        }
        TORCH_CHECK(
            op == c10d::ReduceOp::SUM || op == c10d::ReduceOp::PRODUCT || op == c10d::ReduceOp::MIN ||
                op == c10d::ReduceOp::MAX,
            "HCCL ", name, ": Unsupported reduction");
    }

    // A communicator is built for one device of each rank, and no two ranks have the same.
    void claim(c10::DeviceIndex index) {
        if (device_ < 0) {
            const auto key = "simulated hccl device " + std::to_string(index);
            TORCH_CHECK(
                store_->add(key, 1) == 1, "HCCL: npu:", static_cast<int>(index),
                " is used by two ranks; was torch.npu.set_device called?");
            device_ = index;
        }
        TORCH_CHECK(
            device_ == index, "HCCL: this rank's communicator is on npu:", static_cast<int>(device_),
            ", the tensor on npu:", static_cast<int>(index));
    }

    WorkPtr work(WorkPtr gloo, Tensors outputs, c10d::OpType type) {
        const c10::Device device(kNpu, device_ < 0 ? current_device() : device_);
        return c10::make_intrusive<HcclWork>(std::move(gloo), std::move(outputs), type, getRank(), device);
    }

    c10::intrusive_ptr<c10d::Store> store_;
    c10::intrusive_ptr<c10d::Backend> gloo_;
    c10::DeviceIndex device_ = -1;
};

}  // namespace

c10::intrusive_ptr<c10d::Backend> make_hccl(
    const c10::intrusive_ptr<c10d::Store>& store, const c10::intrusive_ptr<c10d::Backend>& gloo) {
    return c10::make_intrusive<Hccl>(store, gloo);
}

}  // namespace simulated_npu
