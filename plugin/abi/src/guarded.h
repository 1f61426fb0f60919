// Shared by the C++ files that call libtorch: no exception crosses the boundary to Rust.
#pragma once

#include <c10/util/Exception.h>

#include <cstring>
#include <exception>

// Runs `body`; returns NULL, or the exception's message for the caller to free().
template <typename Body> char *guarded(const Body &body) {
  try {
    body();
    return nullptr;
  } catch (const c10::Error &e) {
    return strdup(e.what_without_backtrace());
  } catch (const std::exception &e) {
    return strdup(e.what());
  }
}
