package container

import (
	"math/rand/v2"
	"strconv"
)

// RandomName proposes a name for a container that was given none, in docker's
// form adjective_person; from the second attempt on with a number behind it.
func RandomName(attempt int) string {
	name := adjectives[rand.IntN(len(adjectives))] + "_" + people[rand.IntN(len(people))] //nolint:gosec // a name is no secret
	if attempt > 0 {
		name += strconv.Itoa(rand.IntN(10 * attempt)) //nolint:gosec // a name is no secret
	}
	return name
}

var adjectives = []string{
	"able", "airy", "amber", "ample", "apt", "balmy", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid", "clear", "clever", "coastal",
	"cosy", "crisp", "daring", "deft", "eager", "early", "earnest", "easy", "fair", "fleet", "fluent", "fond", "frank", "fresh", "gentle", "glad",
	"golden", "grand", "handy", "happy", "hardy", "hearty", "honest", "jolly", "jovial", "keen", "kind", "lively", "loyal", "lucid", "lucky", "merry",
	"mild", "modest", "neat", "nimble", "noble", "patient", "placid", "plucky", "polite", "prompt", "proud", "quick", "quiet", "ready", "robust", "rosy",
	"sandy", "serene", "sharp", "silver", "sincere", "smart", "snug", "solid", "sound", "spry", "steady", "sturdy", "sunny", "sure", "swift", "tidal",
	"tidy", "trusty", "upbeat", "vast", "vivid", "warm", "wary", "windy", "wise", "witty", "young", "zesty",
}

// People who moved things across water, or our field forward.
var people = []string{
	"adams", "allen", "amundsen", "babbage", "bach", "backus", "barents", "bartik", "battuta", "bell", "bering", "bly", "brunel", "cabot", "cerf", "church",
	"clarke", "codd", "cook", "cousteau", "curie", "dijkstra", "drake", "earhart", "earle", "engelbart", "euler", "fitzroy", "floyd", "franklin", "gagarin", "gama",
	"gauss", "gray", "hamilton", "heyerdahl", "hoare", "hopper", "hudson", "huygens", "hypatia", "johnson", "kahn", "karp", "kay", "kernighan", "knuth", "lamarr",
	"lamport", "liskov", "lovelace", "magellan", "mccarthy", "mclean", "meitner", "mercator", "milner", "moore", "morse", "nansen", "naur", "newton", "noether", "papert",
	"perlman", "pike", "polo", "postel", "pytheas", "rabin", "ride", "ritchie", "ross", "scott", "shackleton", "shannon", "slocum", "steele", "stevin", "tarjan",
	"tasman", "tharp", "thompson", "torvalds", "turing", "vespucci", "wirth", "zheng", "zuse",
}
