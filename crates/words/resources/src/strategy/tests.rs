//! Doors and peculiarities, case by case.
