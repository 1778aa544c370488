//! The counting wrapper.
