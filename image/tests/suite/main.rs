//! Tests of both halves of the crate, in one program: they share their stand-ins.
#![allow(missing_docs, reason = "test names say it")]

mod kernel;
mod model;
mod pull;
mod push;
mod store;
mod support;
mod unpack;
