//! Small hands for the lab: commands, batches of `ip`, kernel settings, and code in a namespace.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use nix::{
    net::if_::if_nametoindex,
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket,
        sockopt,
    },
};
use tokio::{io::AsyncWriteExt, process::Command, sync::oneshot};

/// How long a connection may stand still.
pub const TCP_TIMEOUT: Duration = Duration::from_secs(5);
const TCP_PAYLOAD_LEN: usize = 1 << 20;

/// Runs a command to its end; an error if it fails, with what it said.
pub async fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = output(command).await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!("{:?} failed ({}): {}", command.as_std(), output.status, said.trim())
}

/// Runs a command to its end, whatever that is.
pub async fn output(command: &mut Command) -> anyhow::Result<Output> {
    let name = format!("{:?}", command.as_std().get_program());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    output.with_context(|| format!("{name} cannot be run"))
}

/// Feeds a command its input and runs it to its end.
pub async fn feed(command: &mut Command, input: &str) -> anyhow::Result<()> {
    let name = format!("{:?}", command.as_std());
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("{name} cannot be run"))?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(input.as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {} in\n{input}", output.status, said.trim());
    }
    Ok(())
}

/// Several `ip` commands in one process, in the lab's own namespace.
pub async fn ip_batch(lines: &[String]) -> anyhow::Result<()> {
    feed(Command::new("ip").args(["-batch", "-"]), &(lines.join("\n") + "\n")).await
}

/// The same of IPv6, where a command does not name an address.
pub async fn ip6_batch(lines: &[String]) -> anyhow::Result<()> {
    feed(Command::new("ip").args(["-6", "-batch", "-"]), &(lines.join("\n") + "\n")).await
}

/// Sets a kernel setting of the lab's own namespace, by its path below `/proc/sys/net/ipv4`.
pub fn sysctl(name: &str, value: &str) -> anyhow::Result<()> {
    set(&Path::new("/proc/sys/net/ipv4").join(name), value)
}

/// The same below `/proc/sys/net/ipv6`.
pub fn sysctl6(name: &str, value: &str) -> anyhow::Result<()> {
    set(&Path::new("/proc/sys/net/ipv6").join(name), value)
}

fn set(path: &Path, value: &str) -> anyhow::Result<()> {
    fs::write(path, value).with_context(|| format!("{} cannot be set to {value}", path.display()))
}

/// Says from a namespace that it is a router, to whoever is on its links.
pub async fn advertise_a_router(netns: &Path) -> anyhow::Result<()> {
    /// A router advertisement that lasts half an hour, with a prefix to make addresses of. The kernel sums it up.
    const SAID: [u8; 48] = [
        134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, // its head
        3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0, // a prefix, and how long it is good for
        0x20, 1, 0xd, 0xb8, 0xba, 0xd0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    inside(netns, || {
        let socket = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::empty(), SockProtocol::IcmpV6)?;
        setsockopt(&socket, sockopt::Ipv6MulticastHops, &255)?;
        let device = if_nametoindex("ethwe")?;
        let all = SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 0, 0, device);
        sendto(socket.as_raw_fd(), &SAID, &SockaddrIn6::from(all), MsgFlags::empty())?;
        Ok(())
    })
    .await
}

/// Sends a megabyte from one namespace to another and back by TCP, and compares.
pub async fn tcp_echo(from: &Path, to: &Path, address: Ipv4Addr) -> anyhow::Result<()> {
    let listener = inside(to, move || Ok(TcpListener::bind((address, 0))?)).await?;
    let port = listener.local_addr()?.port();
    echo(from, listener, (address, port).into()).await
}

/// The same to this port of it, by an address and a port of another that lead there.
pub async fn tcp_echo_by(
    from: &Path,
    to: &Path,
    port: u16,
    by: (impl Into<IpAddr>, u16),
) -> anyhow::Result<()> {
    let by = SocketAddr::new(by.0.into(), by.1);
    let any = if by.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let listener = inside(to, move || Ok(TcpListener::bind((any, port))?)).await?;
    echo(from, listener, by).await
}

/// The address under which whoever is called from a namespace sees its caller.
pub async fn tcp_source(from: &Path, to: &Path, address: Ipv4Addr) -> anyhow::Result<Ipv4Addr> {
    let listener = inside(to, move || Ok(TcpListener::bind((address, 0))?)).await?;
    let port = listener.local_addr()?.port();
    let server = spawn(move || Ok(listener.accept()?.1));
    let client = inside(from, move || {
        Ok(TcpStream::connect_timeout(&SocketAddr::from((address, port)), TCP_TIMEOUT)?)
    });
    let (caller, _) = tokio::try_join!(server, client)?;
    match caller.ip() {
        std::net::IpAddr::V4(ip) => Ok(ip),
        std::net::IpAddr::V6(ip) => bail!("called from {ip}"),
    }
}

async fn echo(from: &Path, listener: TcpListener, to: SocketAddr) -> anyhow::Result<()> {
    let server = spawn(move || {
        let (mut stream, _) = listener.accept()?;
        limit(&stream)?;
        let mut received = vec![0; TCP_PAYLOAD_LEN];
        stream.read_exact(&mut received)?;
        Ok(stream.write_all(&received)?)
    });
    let client = inside(from, move || {
        let mut stream = TcpStream::connect_timeout(&to, TCP_TIMEOUT)?;
        limit(&stream)?;
        let sent: Vec<u8> = (0..TCP_PAYLOAD_LEN).map(|n| (n % 251) as u8).collect();
        stream.write_all(&sent)?;
        let mut received = vec![0; TCP_PAYLOAD_LEN];
        stream.read_exact(&mut received)?;
        ensure!(received == sent, "what came back is not what was sent");
        Ok(())
    });
    // A server that nobody reaches waits for ever; its thread ends with the lab.
    tokio::try_join!(server, client).map(|_| ())
}

/// One that stands still is given up.
pub fn limit(stream: &TcpStream) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(TCP_TIMEOUT))?;
    Ok(stream.set_write_timeout(Some(TCP_TIMEOUT))?)
}

/// Runs code in a network namespace, on a thread that is not used for anything else.
pub async fn inside<T: Send + 'static>(
    netns: &Path,
    code: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let file = fs::File::open(netns).with_context(|| format!("{} cannot be opened", netns.display()))?;
    spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).context("the namespace cannot be entered")?;
        code()
    })
    .await
}

async fn spawn<T: Send + 'static>(
    code: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (done, result) = oneshot::channel();
    std::thread::spawn(move || done.send(code()));
    result.await.context("the thread ended early")?
}
