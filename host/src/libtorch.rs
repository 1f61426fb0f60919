//! Opens libtorch_cuda and picks devices.
