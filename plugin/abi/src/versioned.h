// DLPack 1.x for torch 2.8, which has only DLPack 0.8: the structs, and libtorch's two conversions under the names that
// they have from 2.9 on.
#pragma once

#include <ATen/DLConvertor.h>
#include <torch/version.h>

#if TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 9

#include <cstdint>
#include <functional>
#include <utility>

struct DLPackVersion {
  uint32_t major, minor;
};

struct DLManagedTensorVersioned {
  DLPackVersion version;
  void *manager_ctx;
  void (*deleter)(DLManagedTensorVersioned *self);
  uint64_t flags;
  DLTensor dl_tensor;
};

namespace at {

// Views the tensor's memory, and copies its sizes and strides; `deleter` runs at the end of the view.
inline Tensor fromDLPackVersioned(DLManagedTensorVersioned *source, std::function<void(void *)> deleter) {
  DLManagedTensor plain{source->dl_tensor, nullptr, nullptr};
  return fromDLPack(&plain, std::move(deleter));
}

// `manager_ctx` is the tensor as DLPack 0.8. Python's torch takes only that, so _dlpack.py takes it out and sets NULL.
inline DLManagedTensorVersioned *toDLPackVersioned(const Tensor &tensor) {
  DLManagedTensor *plain = toDLPack(tensor);
  const auto deleter = [](DLManagedTensorVersioned *self) {
    auto *plain = static_cast<DLManagedTensor *>(self->manager_ctx);
    if (plain != nullptr) plain->deleter(plain);
    delete self;
  };
  return new DLManagedTensorVersioned{{1, 0}, plain, deleter, 0, plain->dl_tensor};
}

} // namespace at

#endif
