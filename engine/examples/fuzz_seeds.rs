//! Writes the seeds of all fuzz targets into `fuzz/corpus`: `cargo run -p siltstone --features fuzz --example fuzz_seeds`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    for (target, seeds) in siltstone::internals::fuzz::seeds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
