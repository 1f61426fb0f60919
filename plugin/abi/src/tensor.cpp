// DLPack <-> at::Tensor with libtorch's own converter, and CUDA streams; exceptions become messages.
#include "guarded.h"
#include "versioned.h"

#include <ATen/DLConvertor.h>
#include <c10/core/StreamGuard.h>

#include <functional>
#include <utility>

namespace {

// Views the tensor's memory; `deleter` runs when the last at::Tensor that shares it is destroyed. libtorch rejects a byte
// offset, so it gets a description whose data starts at the first element.
at::Tensor *view(const DLManagedTensorVersioned *source, std::function<void(void *)> deleter) {
  DLManagedTensorVersioned moved = *source;
  if (moved.dl_tensor.data != nullptr) {
    moved.dl_tensor.data = static_cast<char *>(moved.dl_tensor.data) + moved.dl_tensor.byte_offset;
  }
  moved.dl_tensor.byte_offset = 0;
  return new at::Tensor(at::fromDLPackVersioned(&moved, std::move(deleter)));
}

} // namespace

extern "C" {

// Takes ownership of the tensor: its deleter runs when the last at::Tensor that shares it is destroyed.
char *ldpo_tensor_import(DLManagedTensorVersioned *source, at::Tensor **out) {
  return guarded([&] {
    *out = view(source, [source](void *) {
      if (source->deleter != nullptr) source->deleter(source);
    });
  });
}

// Views the tensor without ever calling its deleter.
char *ldpo_tensor_borrow(DLManagedTensorVersioned *source, at::Tensor **out) {
  return guarded([&] { *out = view(source, [](void *) {}); });
}

// Makes a CUDA stream the current one of the calling thread. In libtorch, the id of the default stream, which is CUDA's
// legacy one, is 0, and that of a foreign stream is its handle. This is c10::cuda::getStreamFromExternal without CUDA's
// headers.
char *ldpo_stream_enter(int32_t device, void *stream, c10::StreamGuard **out) {
  return guarded([&] {
    auto handle = reinterpret_cast<c10::StreamId>(stream);
    c10::Device on(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
    *out = new c10::StreamGuard(c10::Stream(c10::Stream::UNSAFE, on, handle == 1 ? 0 : handle));
  });
}

// Makes the former stream the current one again.
void ldpo_stream_leave(c10::StreamGuard *guard) { delete guard; }

char *ldpo_tensor_export(const at::Tensor *tensor, DLManagedTensorVersioned **out) {
  return guarded([&] { *out = at::toDLPackVersioned(tensor->detach()); });
}
}
