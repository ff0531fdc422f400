package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"lifeboat.im/lifeboat/agent"
	"lifeboat.im/lifeboat/history"
)

// nested is a key that holds keys of its own, as strictly read as the others.
func nested(name, help string, keys ...option) option {
	return option{name, help, func(c *config, n *yaml.Node) error {
		if n.Kind != yaml.MappingNode {
			return fmt.Errorf("want keys, for instance {%s: …}", keys[0].name)
		}
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i].Value, n.Content[i+1]
			if seen[key] {
				return fmt.Errorf("%s is set twice", key)
			}
			seen[key] = true
			o, err := lookup(keys, key)
			if err != nil {
				return err
			}
			if err := o.set(c, value); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
		return nil
	}, func(c *config) string {
		var list []string
		for _, o := range keys {
			list = append(list, o.name+": "+o.show(c))
		}
		return "{" + strings.Join(list, ", ") + "}"
	}}
}

// leastRate keeps a copy anew faster than what a source would take for a client that
// stands still.
const leastRate = 1 << 20

func refreshOption() option {
	rate := size("rate", "", func(c *config) *int64 { return &c.Tuning.RefreshRate })
	read := rate.set
	rate.set = func(c *config, n *yaml.Node) error {
		v := *n
		v.Value = strings.TrimSuffix(n.Value, "/s")
		if err := read(c, &v); err != nil {
			return err
		}
		if r := c.Tuning.RefreshRate; r > 0 && r < leastRate {
			return fmt.Errorf("want at least 1MiB a second, have %q", n.Value)
		}
		return nil
	}
	hours := option{"hours", "", func(c *config, n *yaml.Node) (err error) {
		if n.Value == "any" {
			c.Tuning.RefreshHours = agent.Hours{}
			return nil
		}
		c.Tuning.RefreshHours, err = agent.ParseHours(n.Value)
		return err
	}, func(c *config) string { return c.Tuning.RefreshHours.String() }}
	return nested("refresh", "how tables are copied anew: rate (bytes of rows a second), hours (local time, or any), copy_max (longest time of any copy), min (records of a table below which it is not copied early)",
		rate, hours,
		duration("copy_max", "", func(c *config) *time.Duration { return &c.Tuning.CopyMax }),
		size("min", "", func(c *config) *int64 { return &c.Tuning.RefreshMin }))
}

// leastKeep is the shortest span in which every commit is kept: less could be gone
// before anybody has looked.
const leastKeep = 24 * time.Hour

func keepOption() option {
	every := duration("every_commit", "", func(c *config) *time.Duration { return &c.Keep.EveryCommit })
	rounds := func(name, what string, at func(*config) *int) option {
		o := number(name, "", at)
		o.set = func(c *config, n *yaml.Node) error {
			v, err := strconv.Atoi(n.Value)
			if err != nil || v < 1 || v > 1000 {
				return fmt.Errorf("want how many %s, from 1, have %q; leave %s out to keep none", what, n.Value, name)
			}
			*at(c) = v
			return nil
		}
		return o
	}
	o := nested("keep", "what `lifeboat prune` leaves: every_commit (span in which any commit can be restored), weekly and monthly (for how many weeks and months one point each); or everything, the default: nothing is ever removed",
		every, rounds("weekly", "weeks", func(c *config) *int { return &c.Keep.Weekly }), rounds("monthly", "months", func(c *config) *int { return &c.Keep.Monthly }))
	set := o.set
	o.set = func(c *config, n *yaml.Node) error {
		if n.Kind == yaml.ScalarNode && n.Value == "everything" {
			c.Keep = history.Keep{}
			return nil
		}
		if err := set(c, n); err != nil {
			return err
		}
		if c.Keep.EveryCommit < leastKeep {
			return errors.New("want every_commit of 1d or more, for instance {every_commit: 14d, weekly: 8, monthly: 12}; or keep: everything")
		}
		return nil
	}
	show := o.show
	o.show = func(c *config) string {
		if c.Keep == (history.Keep{}) {
			return "everything"
		}
		return strings.ReplaceAll(strings.ReplaceAll(show(c), ", weekly: 0", ""), ", monthly: 0", "")
	}
	return o
}

// applyKeep makes the agent do what retention needs: rounds, and a new copy of each
// table at least once in the span in which every commit is kept.
func (c *config) applyKeep() {
	if c.Keep == (history.Keep{}) {
		return
	}
	c.Tuning.Weekly, c.Tuning.Monthly = c.Keep.Weekly > 0, c.Keep.Monthly > 0
	c.Tuning.RefreshEvery = min(c.Tuning.RefreshEvery, c.Keep.EveryCommit)
}

func alarmOption() option {
	share := option{"share", "", func(c *config, n *yaml.Node) error {
		text, ok := strings.CutSuffix(n.Value, "%")
		v, err := strconv.ParseFloat(text, 64)
		if !ok || err != nil || !(v > 0 && v <= 100) {
			return fmt.Errorf("want a part such as 30%%, have %q", n.Value)
		}
		c.Tuning.Alarm.Share = v / 100
		return nil
	}, func(c *config) string { return strconv.FormatFloat(c.Tuning.Alarm.Share*100, 'g', -1, 64) + "%" }}
	rows := option{"rows", "", func(c *config, n *yaml.Node) error {
		v, err := strconv.ParseInt(n.Value, 10, 64)
		if err != nil || v < 1 {
			return fmt.Errorf("want a whole number from 1, have %q", n.Value)
		}
		c.Tuning.Alarm.Rows = v
		return nil
	}, func(c *config) string { return strconv.FormatInt(c.Tuning.Alarm.Rows, 10) }}
	except := option{"except", "", func(c *config, n *yaml.Node) error {
		return n.Decode(&c.Tuning.Alarm.Except)
	}, func(c *config) string { return "[" + strings.Join(c.Tuning.Alarm.Except, ", ") + "]" }}
	o := nested("alarm", "share of a table's rows that a commit or a minute may delete or rewrite; rows, the least number that counts; except, tables that it does not watch; or off", share, rows, except)
	set, show := o.set, o.show
	o.set = func(c *config, n *yaml.Node) error {
		switch {
		case n.Kind == yaml.ScalarNode && (n.Value == "off" || n.Value == "false"):
			c.Tuning.Alarm.Off = true
			return nil
		case n.Kind != yaml.MappingNode:
			return errors.New("want off, or keys: {share: 30%, rows: 1000}")
		}
		return set(c, n)
	}
	o.show = func(c *config) string {
		if c.Tuning.Alarm.Off {
			return "off"
		}
		return show(c)
	}
	return o
}
