//! A MinIO of our own: a temporary folder, a free port on the loopback, killed on drop.
//!
//! Uses nothing but the standard library and `tempfile`, so that other crates' tests can include it by path.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::child::{Guard, free_port, tail};
use super::tools::tool;

pub const ACCESS_KEY: &str = "spillway-test";
pub const SECRET_KEY: &str = "spillway-test-secret";
pub const BUCKET: &str = "logs";
pub const REGION: &str = "us-east-1";

pub struct Minio {
    child: Option<(Guard, Child)>,
    port: u16,
    environment: Vec<(String, String)>,
    dir: tempfile::TempDir,
}

impl Minio {
    /// Starts a server with one empty bucket and waits until it answers.
    pub fn start() -> Self {
        Self::start_with(Vec::new(), None)
    }

    /// The same with more settings, and an authority that it trusts when it asks others.
    pub fn start_with(environment: Vec<(String, String)>, authority: Option<&str>) -> Self {
        let dir = tempfile::Builder::new().prefix("spillway-minio-").tempdir().expect("a temporary folder");
        // A folder in the data folder is a bucket.
        fs::create_dir_all(dir.path().join("data").join(BUCKET)).expect("the bucket's folder");
        let credentials = dir.path().join("credentials");
        fs::create_dir(&credentials).expect("the credentials folder");
        fs::write(credentials.join("access_key_id"), ACCESS_KEY).expect("the access key");
        fs::write(credentials.join("secret_access_key"), SECRET_KEY).expect("the secret key");
        let authorities = dir.path().join("certificates/CAs");
        fs::create_dir_all(&authorities).expect("the certificates' folder");
        if let Some(pem) = authority {
            fs::write(authorities.join("authority.crt"), pem).expect("the authority");
        }
        let mut minio = Self { child: None, port: free_port(), environment, dir };
        minio.start_again();
        minio
    }

    /// Starts the server over the same data and port, after [`Minio::kill`].
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "MinIO is already running");
        let log = File::options().create(true).append(true).open(self.log()).expect("the log file");
        let child = Command::new(tool("minio", "github.com/minio/minio").expect("MinIO is built"))
            .args(["server", "--quiet", "--address"])
            .arg(format!("127.0.0.1:{}", self.port))
            .arg(self.dir.path().join("data"))
            .arg("--certs-dir")
            .arg(self.dir.path().join("certificates"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("MINIO_ROOT_USER", ACCESS_KEY)
            .env("MINIO_ROOT_PASSWORD", SECRET_KEY)
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off")
            .env("HOME", self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("MinIO starts");
        self.child = Some((Guard::over(child.id(), self.dir.path()), child));
        self.wait_until_ready();
    }

    /// SIGKILL; data and port are kept.
    pub fn kill(&mut self) {
        if let Some((guard, mut child)) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
            drop(guard);
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(|(_, child)| child.id())
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A folder with the files `access_key_id` and `secret_access_key`.
    pub fn credentials_dir(&self) -> PathBuf {
        self.dir.path().join("credentials")
    }

    pub fn log(&self) -> PathBuf {
        self.dir.path().join("minio.log")
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if answers(self.port) {
                return;
            }
            let exited = self.child.as_mut().and_then(|(_, child)| child.try_wait().ok().flatten());
            assert!(exited.is_none(), "MinIO exited at once ({exited:?}):\n{}", tail(&self.log()));
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("MinIO did not get ready within a minute:\n{}", tail(&self.log()));
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        self.kill();
    }
}

fn answers(port: u16) -> bool {
    // A GET of the bucket without a signature is refused, by a server whose storage is ready. The health endpoint is
    // ready earlier, and what gives out temporary keys later: asked with a token that nobody issued, it says until then
    // that it is not initialized.
    let listing = format!("GET /{BUCKET}/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let form = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&WebIdentityToken=none";
    let keys = format!(
        "POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n\r\n{form}",
        form.len()
    );
    ask(port, &listing).is_ok_and(|answer| answer.contains("AccessDenied"))
        && ask(port, &keys)
            .is_ok_and(|answer| answer.contains("<ErrorResponse") && !answer.contains("NotInitialized"))
}

fn ask(port: u16, request: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
