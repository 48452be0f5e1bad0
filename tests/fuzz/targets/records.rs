#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    weavers_fuzz::named(env!("CARGO_BIN_NAME"))(input);
});
