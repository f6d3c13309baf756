//! Tests of the codecs: tables, hostile bodies, and what `tritonclient` sends.
