//! Runs reconcilers and the scheduler: queues, back-off, execution of plans.
