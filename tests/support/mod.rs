//! What integration tests share. Each takes `mod support;` and uses a part of it.
#![allow(dead_code, reason = "every test binary compiles all of it and uses some")]

pub mod broker;
pub mod python;
