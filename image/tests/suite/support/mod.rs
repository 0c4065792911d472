//! What the tests share.

pub(crate) mod erofs;
pub(crate) mod registry;
pub(crate) mod stack;
pub(crate) mod tarball;
