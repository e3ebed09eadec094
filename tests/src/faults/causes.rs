//! Why instances left: departures of every kind are planted, and what the stream says of each is counted.
