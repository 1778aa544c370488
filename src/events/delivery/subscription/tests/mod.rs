//! Tests of the machine: scenes, and a reference model under random operations.

mod scenes;
mod world;
