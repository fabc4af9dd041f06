//! The portable CPU backend.
