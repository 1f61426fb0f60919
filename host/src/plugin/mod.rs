//! The plugin, loaded and safe.
