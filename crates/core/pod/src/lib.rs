//! Pod lifecycle as a pure function of spec, observation and time.
