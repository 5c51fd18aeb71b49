// Package sqlitebroker is a [broker.Broker] that keeps rooms in one SQLite file: messages,
// positions and the IDs of publishes survive a restart, kill -9 and, as far as the disk honours
// fsync, a power failure.
//
//	b, err := sqlitebroker.Open("/var/lib/chat/chat.db")
//	if err != nil { ... }
//	defer b.Close() // after the hub's Shutdown
//	h := hub.New(hub.WithBroker(b))
//
// It is for one process; a second one that opens the file gets [ErrInUse]. There is no cgo: the
// engine is modernc.org/sqlite.
//
// # What an ack means
//
// When Publish returns without an error, the message and its ID are in one committed
// transaction, with SQLite's write-ahead log and synchronous=FULL: the log was fsynced. Members
// see a message only after that too, so nobody saw what a restart takes back. An error that wraps
// [broker.ErrBusy] or [broker.ErrTooLarge] means that it was not kept; after any other it may
// have been, and repeating it under the same ID tells.
//
// What it costs is one fsync for a group: messages that come while one transaction is under way
// are committed together by the next, up to 1,024 of them or 4 MiB. Nothing waits for a group to
// fill, so a lone publisher pays an fsync for each message and many share it.
//
// # What is kept
//
// Each room keeps its last 256 messages for an hour, within 4 MiB, by default ([WithRetention],
// [WithRoomBytes], [Broker.SetRetention]). Nothing past a bound is ever handed out; the file is
// trimmed in steps behind that, also for rooms that nobody uses, and gives free pages back to
// the file system. A room's last position stays for good, in about 70 bytes; a room
// that never had a message takes nothing.
//
// IDs are remembered for 10 minutes ([WithDedup]), whatever happens to their messages. They are held in memory
// (about 200 bytes each) and in the file (about 80), from which Open loads them.
//
// Ages go by a clock that starts as the system's at Open and that no change of the system's time moves
// until Close. Where the system's clock went back in between, what is then in the future counts as of
// the moment of Open: nothing lives longer than its age, or window, from there. Where it jumped ahead,
// what seems too old is gone.
//
// # When the disk fails
//
// A publish that can't be committed is refused with an error, and so are those of its group;
// positions stay what the file has. Reading goes on, as far as the disk can be read, and
// publishing goes on as soon as the disk takes it. A full disk is no other case.
//
// Damage is met with [ErrDamaged]. Open looks for it in the file's structure ([WithCheck]), and a message or a
// room's row is checked against its checksum when it is read; a cursor's tag is that checksum. A Broker that
// met damage while it opened or wrote refuses every publish from then on, and serves what can be read: who resumes is told
// of a damaged message as of one that is not kept any more ([broker.Gap]). Where the file's first page, or its length, is wrong, Open fails. To mend it,
// take a backup, or try `sqlite3 chat.db .recover`. Not noticed is damage to the hash of an ID: its repeat is kept again.
//
// # The file
//
// Beside the file there are its log (-wal) and index (-shm) while it is open, and -lock, an empty file that keeps
// other processes out and stays; a process that was killed leaves nothing locked. All have mode 0600 where
// Open makes them. The file has the application id 0x68756273 and a user_version that Open migrates
// forward; a newer one than this package knows is [ErrNewer]. The file system has to be a local one.
//
// A backup is `sqlite3 chat.db ".backup copy.db"`, while the broker runs; a copy of the file alone, without its
// -wal, lacks what was not moved into it yet. Who comes to a restored copy with a cursor from after the
// backup gets [broker.Reset]: its position is in the future, or has another message.
package sqlitebroker
