// DLPack <-> at::Tensor through libtorch's own converter, with exceptions turned into messages.
#include <ATen/DLConvertor.h>

#include <cstring>
#include <exception>
#include <functional>

namespace {

// Runs `body`; returns NULL, or the exception's message for the caller to free().
char *guarded(const std::function<void()> &body) {
  try {
    body();
    return nullptr;
  } catch (const c10::Error &e) {
    return strdup(e.what_without_backtrace());
  } catch (const std::exception &e) {
    return strdup(e.what());
  }
}

} // namespace

extern "C" {

// Takes the tensor over: its deleter runs when the last at::Tensor that shares it goes.
char *ldpo_tensor_import(DLManagedTensorVersioned *source, at::Tensor **out) {
  return guarded([&] { *out = new at::Tensor(at::fromDLPackVersioned(source)); });
}

// Views the tensor without ever calling its deleter.
char *ldpo_tensor_borrow(DLManagedTensorVersioned *source, at::Tensor **out) {
  return guarded([&] { *out = new at::Tensor(at::fromDLPackVersioned(source, [](void *) {})); });
}

char *ldpo_tensor_export(const at::Tensor *tensor, DLManagedTensorVersioned **out) {
  return guarded([&] { *out = at::toDLPackVersioned(tensor->detach()); });
}
}
