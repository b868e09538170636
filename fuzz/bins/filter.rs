#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| open_crm_fuzz::targets::filter(data));
