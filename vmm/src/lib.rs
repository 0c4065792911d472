//! Virtual machine monitor: one microVM per process.
