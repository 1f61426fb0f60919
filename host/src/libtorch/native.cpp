// Functions of libtorch that tch leaves out; exceptions become messages. native.rs is the Rust side.
#include "guarded.h"

#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/TensorIterator.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/arange.h>
#include <c10/core/AllocatorConfig.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdlib>
#include <vector>

namespace {

std::vector<at::Tensor> list(const at::Tensor *const *tensors, size_t num_tensors) {
  std::vector<at::Tensor> copies;
  copies.reserve(num_tensors);
  for (size_t i = 0; i < num_tensors; ++i) copies.push_back(*tensors[i]);
  return copies;
}

} // namespace

extern "C" {

// Backpropagates `grad`, the gradient of `output`, adding to the gradients of the leaves, and frees the graph.
char *ldpo_backward(const at::Tensor *output, const at::Tensor *grad) {
  return guarded([&] { torch::autograd::backward({*output}, {*grad}); });
}

// Sets the gradient of a leaf; NULL removes it.
char *ldpo_set_grad(const at::Tensor *leaf, const at::Tensor *grad) {
  return guarded([&] { leaf->mutable_grad() = grad == nullptr ? at::Tensor() : *grad; });
}

// As torch.use_deterministic_algorithms(True), with the workspace that makes cuBLAS deterministic.
char *ldpo_use_deterministic_algorithms() {
  return guarded([] {
    setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    at::globalContext().setDeterministicCuDNN(true);
    at::globalContext().setBenchmarkCuDNN(false);
    // Memory that an operation reads before it writes it would be an error of this program, and filling takes time.
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  });
}

// Every list has `num_tensors` entries; `step` and `grad_scale` are scalars on the device of the tensors.
char *ldpo_fused_adamw(const at::Tensor *const *weights, const at::Tensor *const *grads, const at::Tensor *const *exp_avgs,
                       const at::Tensor *const *exp_avg_sqs, size_t num_tensors, const at::Tensor *step,
                       const at::Tensor *grad_scale, double learning_rate, double beta1, double beta2,
                       double weight_decay, double epsilon) {
  return guarded([&] {
    const std::vector<at::Tensor> steps(num_tensors, *step);
    at::_fused_adamw_(list(weights, num_tensors), list(grads, num_tensors), list(exp_avgs, num_tensors),
                      list(exp_avg_sqs, num_tensors), {}, steps, learning_rate, beta1, beta2, weight_decay, epsilon,
                      /*amsgrad=*/false, /*maximize=*/false, *grad_scale);
  });
}

// Largest number of bytes that the allocator of a CUDA device has reserved.
char *ldpo_peak_reserved_bytes(int8_t device, uint64_t *out) {
  return guarded([&] {
    const auto stats = at::getDeviceAllocator(c10::DeviceType::CUDA)->getDeviceStats(device);
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    *out = static_cast<uint64_t>(stats.reserved_bytes[all].peak);
  });
}

// Bytes of a CUDA device that no process uses.
char *ldpo_free_bytes(int8_t device, uint64_t *out) {
  return guarded([&] { *out = at::getDeviceAllocator(c10::DeviceType::CUDA)->getMemoryInfo(device).first; });
}

// Configures the allocators of devices, in the syntax of PYTORCH_ALLOC_CONF.
char *ldpo_configure_allocator(const char *settings) {
  return guarded([&] { c10::CachingAllocator::setAllocatorSettings(settings); });
}

bool ldpo_has_expandable_segments() {
  return c10::CachingAllocator::AcceleratorAllocatorConfig::use_expandable_segments();
}

// Lets float32 products on CUDA use TF32, or not. setFloat32MatmulPrecision would change products on the CPU, too.
char *ldpo_allow_tf32(bool allowed) {
  return guarded([&] { at::globalContext().setAllowTF32CuBLAS(allowed); });
}

bool ldpo_allows_tf32() {
  return at::globalContext().float32Precision(at::Float32Backend::CUDA, at::Float32Op::MATMUL) ==
         at::Float32Precision::TF32;
}

// Calls `body` with ranges of the numbers below `count`, each number once, by the threads of libtorch. Its own parallel loop is
// a template that would need this file to be compiled for the OpenMP that libtorch brings along.
char *ldpo_in_parallel(int64_t count, void (*body)(const void *data, int64_t begin, int64_t end), const void *data) {
  return guarded([&] {
    at::Tensor numbers = at::arange(count, at::kLong);
    auto iterator = at::TensorIterator::nullary_op(numbers);
    iterator.for_each(
        [&](char **addresses, const int64_t *strides, int64_t length, int64_t rows) {
          for (int64_t row = 0; row < rows; ++row) {
            const int64_t begin = *reinterpret_cast<const int64_t *>(addresses[0] + row * strides[1]);
            body(data, begin, begin + length);
          }
        },
        /*grain_size=*/1);
  });
}
}
