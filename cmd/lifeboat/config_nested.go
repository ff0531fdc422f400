package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"lifeboat.im/lifeboat/agent"
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
